"""The vocabulary of a GGUF file: its tokens, and by which rule text becomes them.

Two rules are understood. `llama`, that of SentencePiece's BPE: of all neighbours whose joint text is a token, the
best-scored are joined first. `gpt2`: the same over bytes, within the pieces that a pattern splits text into, and in the
order of a list of merges. Source: the GGUF specification, and what llama.cpp does with each field.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from harness.contract.base import Reason
from harness.contract.gguf.header import GgufHeader, RefusedGguf
from harness.contract.suggest import quoted

_PREFIX = "tokenizer.ggml"
_ELSEWHERE = "give the model as safetensors with its own tokenizer (`hub:` or `dir:`)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

BYTE_LEVEL_SPLITS = {
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}",),
    "qwen2": (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}",),
}
"""By the file's `tokenizer.ggml.pre`: the patterns that split text before bytes are joined, one after another."""
_WHOLE_WORDS_FIRST = frozenset({"llama-bpe"})
_BEGIN_BY_DEFAULT = frozenset({"llama", "llama-bpe"})
_NORMALISED = frozenset({"qwen2"})


class TokenType(IntEnum):
    """Of the file's `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class GgufVocabulary:
    """`tokens` by id, and the type of each. `scores` are those of the rule `llama`, `merges` and `split` of `gpt2`.

    `blank_before`: a blank is put before the text. `squeeze_blanks`: runs of them become one. `whole_words_first`: a
    piece that is a token is not taken apart. `composed`: text is brought to Unicode's form C first. The ids are None
    where the file names none.
    """

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...]
    merges: tuple[tuple[str, str], ...]
    split: str | None
    begin_id: int | None
    end_id: int | None
    unknown_id: int | None
    padding_id: int | None
    adds_begin: bool
    adds_end: bool
    blank_before: bool
    squeeze_blanks: bool
    chat_template: str | None

    @property
    def by_score(self) -> bool:
        """Whether the rule is `llama`."""
        return self.split is None

    @property
    def whole_words_first(self) -> bool:
        return self.split in _WHOLE_WORDS_FIRST

    @property
    def composed(self) -> bool:
        return self.split in _NORMALISED

    def of_type(self, *types: TokenType) -> tuple[int, ...]:
        """The ids of the tokens of some types."""
        return tuple(number for number, kind in enumerate(self.types) if kind in types)


def read_vocabulary(header: GgufHeader, rows: int) -> GgufVocabulary:
    """The vocabulary of a file whose model has an embedding of `rows`.

    Raises:
        RefusedGguf: it contradicts itself, or makes tokens of text by a rule that is not understood here.
    """
    rule = header.text(f"{_PREFIX}.model")
    if rule not in ("llama", "gpt2"):
        raise _not_understood(f"rule {quoted(rule)}", "llama, gpt2")
    split = header.text(f"{_PREFIX}.pre") if rule == "gpt2" else None
    if split is not None and split not in BYTE_LEVEL_SPLITS:
        raise _not_understood(f"splitting {quoted(split)}", ", ".join(BYTE_LEVEL_SPLITS))
    if f"{_PREFIX}.precompiled_charsmap" in header.fields:
        raise _not_understood("own rules for characters", "none of them")
    tokens = _array(header, "tokens", str)
    if len(tokens) != rows:
        raise RefusedGguf(f"the GGUF file has {len(tokens)} tokens, and its embedding {rows} rows")
    if len(set(tokens)) != len(tokens):
        raise RefusedGguf("the GGUF file has a token twice")
    types = _array(header, "token_type", int)
    scores = _array(header, "scores", float) if split is None else ()
    for name, values in (("token_type", types), ("scores", scores)):
        if len(values) != len(tokens) and (values or name == "token_type"):
            raise RefusedGguf(f"the GGUF file has {len(tokens)} tokens, and {len(values)} in {_PREFIX}.{name}")
    vocabulary = GgufVocabulary(
        tokens=tokens,
        types=types,
        scores=scores,
        merges=_merges(header, tokens) if split is not None else (),
        split=split,
        begin_id=_token(header, "bos_token_id", len(tokens)),
        end_id=_token(header, "eos_token_id", len(tokens)),
        unknown_id=_token(header, "unknown_token_id", len(tokens)),
        padding_id=_token(header, "padding_token_id", len(tokens)),
        adds_begin=header.flag(f"{_PREFIX}.add_bos_token", default=(split or rule) in _BEGIN_BY_DEFAULT),
        adds_end=header.flag(f"{_PREFIX}.add_eos_token", default=False),
        blank_before=split is None and header.flag(f"{_PREFIX}.add_space_prefix", default=True),
        squeeze_blanks=split is None and header.flag(f"{_PREFIX}.remove_extra_whitespaces", default=False),
        chat_template=header.text("tokenizer.chat_template") if "tokenizer.chat_template" in header.fields else None,
    )
    _refuse_added(vocabulary)
    return vocabulary


def _refuse_added(vocabulary: GgufVocabulary) -> None:
    """A token that is to be added to every text has to be named; bytes stand for themselves only all together."""
    for adds, number, name in (
        (vocabulary.adds_begin, vocabulary.begin_id, "bos"),
        (vocabulary.adds_end, vocabulary.end_id, "eos"),
    ):
        if adds and number is None:
            raise RefusedGguf(f"the GGUF file adds a token to every text, and names no {_PREFIX}.{name}_token_id")
    found = {vocabulary.tokens[number] for number in vocabulary.of_type(TokenType.BYTE)}
    if found and found != {f"<0x{byte:02X}>" for byte in range(256)}:
        raise RefusedGguf("the GGUF file has tokens for some bytes only")


def _array(header: GgufHeader, name: str, kind: type) -> tuple[Any, ...]:
    values = header.fields.get(f"{_PREFIX}.{name}")
    if values is None:
        raise RefusedGguf(f"the GGUF file has no {_PREFIX}.{name}")
    found = tuple(values) if isinstance(values, tuple) else tuple(getattr(values, "tolist", list)())
    if not found or not all(isinstance(value, kind) for value in found):
        raise RefusedGguf(f"the GGUF file's {_PREFIX}.{name} does not hold what it has to")
    return found


def _merges(header: GgufHeader, tokens: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    known = set(tokens)
    merges = []
    for merge in _array(header, "merges", str):
        left, _, right = merge.partition(" ")
        if left + right not in known or left not in known or right not in known:
            raise RefusedGguf(f"the GGUF file's merge {quoted(merge)} is of no tokens")
        merges.append((left, right))
    return tuple(merges)


def _token(header: GgufHeader, name: str, tokens: int) -> int | None:
    if f"{_PREFIX}.{name}" not in header.fields:
        return None
    number = header.count(f"{_PREFIX}.{name}")
    if number >= tokens:
        raise RefusedGguf(f"the header's {_PREFIX}.{name} is {number}, and there are {tokens} tokens")
    return number


def _not_understood(what: str, known: str) -> RefusedGguf:
    return RefusedGguf(
        f"the GGUF file's tokenizer has the {what}, which is not understood here",
        hint=f"understood: {known}; {_ELSEWHERE}",
        reason=Reason.FORMAT,
    )
