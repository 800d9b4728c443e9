"""Tokens of a text by the rule that a GGUF file's own vocabulary has, as plainly as it can be said, and slow.

It is what a tokenizer that was built from the vocabulary is held against, and shares no code with that.
"""

import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from harness.contract.gguf import BYTE_LEVEL_SPLITS, GgufVocabulary, TokenType

Rank = Callable[[str, str], float | None]
"""How late two neighbours are joined; None where they never are."""


class PlainTokenizer:
    """Of one vocabulary. What is added to every text is not its business, nor are tokens that stand in text as such."""

    def __init__(self, vocabulary: GgufVocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids = {token: number for number, token in enumerate(vocabulary.tokens)}
        self._spells_bytes = bool(vocabulary.of_type(TokenType.BYTE))
        self._order = {merge: number for number, merge in enumerate(vocabulary.merges)}
        self._scores = {
            vocabulary.tokens[number]: vocabulary.scores[number]
            for number in (vocabulary.of_type(TokenType.NORMAL) if vocabulary.by_score else ())
        }

    def tokens(self, text: str) -> list[int]:
        """The ids of the tokens of `text`."""
        return list(self._by_score(text) if self._vocabulary.by_score else self._by_merges(text))

    def _by_score(self, text: str) -> Iterator[int]:
        vocabulary = self._vocabulary
        if vocabulary.squeeze_blanks:
            text = " ".join(part for part in text.split(" ") if part)
        text = (" " if vocabulary.blank_before else "") + text
        unknown_before = False
        for piece in _joined(list(text.replace(" ", "▁")), self._rank_by_score):
            known = piece in self._scores
            if known:
                yield self._ids[piece]
            elif self._spells_bytes:
                yield from (self._ids[f"<0x{byte:02X}>"] for byte in piece.encode())
            elif vocabulary.unknown_id is not None and not unknown_before:
                yield vocabulary.unknown_id
            unknown_before = not known

    def _rank_by_score(self, left: str, right: str) -> float | None:
        score = self._scores.get(left + right)
        return None if score is None else -score

    def _by_merges(self, text: str) -> Iterator[int]:
        import regex
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        letters = bytes_to_unicode()  # type: ignore[no-untyped-call]
        pieces = [unicodedata.normalize("NFC", text) if self._vocabulary.composed else text]
        for pattern in BYTE_LEVEL_SPLITS[str(self._vocabulary.split)]:
            pieces = [part for piece in pieces for part in _split(regex.compile(pattern), piece)]
        for piece in pieces:
            word = "".join(letters[byte] for byte in piece.encode())
            if self._vocabulary.whole_words_first and word in self._ids:
                yield self._ids[word]
                continue
            joined = _joined(list(word), lambda left, right: self._order.get((left, right)))
            yield from (self._ids[part] for part in joined if part in self._ids)


def _split(pattern: Any, text: str) -> Iterator[str]:
    """What matches, and what lies between, in the text's order."""
    end = 0
    for match in pattern.finditer(text):
        yield from (part for part in (text[end : match.start()], match.group()) if part)
        end = match.end()
    if text[end:]:
        yield text[end:]


def _joined(parts: list[str], rank: Rank) -> list[str]:
    """Join the two neighbours of the lowest rank, the leftmost of equals, until none may be joined."""
    ranks = [rank(left, right) for left, right in pairwise(parts)]
    while True:
        best = min(((value, at) for at, value in enumerate(ranks) if value is not None), default=None)
        if best is None:
            return parts
        at = best[1]
        parts[at : at + 2] = ["".join(parts[at : at + 2])]
        begin, end = max(0, at - 1), min(at + 2, len(parts))
        ranks[begin : at + 2] = [rank(left, right) for left, right in pairwise(parts[begin:end])]
