"""Text to tokens, as lm-eval does it: context and continuation together, and what stands before an empty context."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.evaluation.prepared import TokenRequest

if TYPE_CHECKING:
    from harness.evaluation.definitions import ModelFacts

Tokens = NDArray[np.int32]

_BATCH_CHARACTERS = 2**21
"""Text handed to the tokenizer at once: it keeps about a hundred bytes for each token until it returns."""


@dataclass(frozen=True)
class EncodedPair:
    """Tokens int32 [n] of a context, which is never empty, and of its continuation."""

    context: Tokens
    continuation: Tokens

    @property
    def request(self) -> TokenRequest:
        return TokenRequest(tuple(self.context.tolist()), tuple(self.continuation.tolist()))

    def dropped_tokens(self, context_length: int) -> int:
        """How many tokens of the beginning a model of that context cannot take; its last token is only predicted."""
        return max(0, len(self.context) + len(self.continuation) - 1 - context_length)


class TextEncoder:
    """Encodes with a model's tokenizer.

    Raises:
        Unsupported: the tokenizer ends every text with a special token, after which nothing goes on.
    """

    def __init__(self, facts: "ModelFacts") -> None:
        self._facts = facts
        self._tokenizer: Any = facts.tokenizer
        plain, framed = (self._tokenizer.encode("a b", add_special_tokens=special) for special in (False, True))
        if framed and plain and framed[-1] != plain[-1]:
            raise Unsupported(
                Reason.TASK,
                f"the tokenizer ends every text with {self._tokenizer.decode(framed[-1:])!r}, so nothing can follow it",
                hint="set add_eos_token to false in the checkpoint's tokenizer_config.json",
            )
        self.beginning_tokens = tuple(framed[: len(framed) - len(plain)])
        self.beginning_token = str(self._tokenizer.decode(list(self.beginning_tokens))) or None

    @cached_property
    def prefix_token(self) -> int:
        """What stands before a continuation without a context: the beginning-of-sequence token, else the end's.

        Raises:
            Unsupported: the tokenizer has neither.
        """
        prefix = self._prefix_token()
        if prefix is None:
            raise Unsupported(
                Reason.TASK,
                "the tokenizer has neither a beginning-of-sequence nor an end-of-sequence token to stand first",
                hint="name a bos_token or an eos_token in the checkpoint's tokenizer_config.json",
            )
        return prefix

    @cached_property
    def _prefix_text(self) -> str | None:
        prefix = self._prefix_token()
        return None if prefix is None else str(self._tokenizer.decode(prefix))

    def encode(self, texts: Iterable[str], *, special: bool = True) -> list[Tokens]:
        """Tokens of each text; `special` adds the tokenizer's own, but not where a text already begins with one.

        Raises:
            BadCheckpoint: a token has no row in the model's embedding.
        """
        encoded: list[Tokens] = []
        for batch, add in _batches(texts, lambda text: special and not self._begins(text)):
            given = self._tokenizer(
                batch, add_special_tokens=add, return_attention_mask=False, return_token_type_ids=False, verbose=False
            )
            encoded += [np.asarray(tokens, dtype=np.int32) for tokens in given["input_ids"]]
        largest = max((int(tokens.max()) for tokens in encoded if len(tokens)), default=-1)
        if largest >= self._facts.vocabulary_size:
            raise BadCheckpoint(
                f"the tokenizer gives token {largest}, the model's embedding has {self._facts.vocabulary_size} rows",
                hint="use the tokenizer that belongs to the model, or resize the embedding",
            )
        return encoded

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[EncodedPair]:
        """Split each pair of texts after the context's own token count; spaces at its end go to the continuation.

        Source: lm-eval's `TemplateLM.loglikelihood` and `_encode_pair`.
        """
        moved = [_move_spaces(context, continuation) for context, continuation in pairs]
        contexts = self._encode_once(context for context, _ in moved if context)
        wholes = self._encode_once(context + continuation for context, continuation in moved if context)
        alone = self._encode_once((continuation for context, continuation in moved if not context), special=False)
        return [
            self._split(contexts[context], wholes[context + continuation])
            if context
            else self._after_prefix(alone[continuation])
            for context, continuation in moved
        ]

    def _encode_once(self, texts: Iterable[str], *, special: bool = True) -> dict[str, Tokens]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self.encode(distinct, special=special), strict=True))

    def _split(self, context: Tokens, whole: Tokens) -> EncodedPair:
        continuation = whole[len(context) :].copy()
        return EncodedPair(context, continuation) if len(context) else self._after_prefix(continuation)

    def _after_prefix(self, continuation: Tokens) -> EncodedPair:
        if len(continuation) and continuation[0] == self.prefix_token:
            return EncodedPair(continuation[:1], continuation[1:])
        return EncodedPair(np.asarray([self.prefix_token], dtype=np.int32), continuation)

    def _begins(self, text: str) -> bool:
        return self._prefix_text is not None and text.startswith(self._prefix_text)

    def _prefix_token(self) -> int | None:
        beginning: int | None = self._tokenizer.bos_token_id
        end: int | None = self._tokenizer.eos_token_id
        return end if beginning is None else beginning


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _batches(texts: Iterable[str], special: Callable[[str], bool]) -> Iterator[tuple[list[str], bool]]:
    """Neighbouring texts that are encoded alike, in pieces of bounded size."""
    for add, alike in groupby(texts, key=special):
        batch: list[str] = []
        room = _BATCH_CHARACTERS
        for text in alike:
            if batch and len(text) > room:
                yield batch, add
                batch, room = [], _BATCH_CHARACTERS
            batch.append(text)
            room -= len(text)
        yield batch, add
