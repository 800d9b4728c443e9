"""Small SentencePiece model files, written byte by byte, and the splitting that such a model prescribes."""

import itertools
import struct
from dataclasses import dataclass, field

UNKNOWN, CONTROL, NORMAL, USER_DEFINED, BYTE = 2, 3, 1, 4, 6
SPACE = "▁"


@dataclass(frozen=True)
class ModelFile:
    """A BPE model: marks, all bytes, the merged pieces with falling scores, then the letters.

    `trainer` and `normaliser` hold further settings by field number; `extra` holds further pieces with their types.
    """

    letters: str
    merges: tuple[str, ...]
    kind: int = 2
    trainer: dict[int, int] = field(default_factory=dict)
    normaliser: dict[int, int | bytes] = field(default_factory=dict)
    extra: tuple[tuple[str, int], ...] = ()

    @property
    def pieces(self) -> list[tuple[str, float, int]]:
        marks = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
        letters = dict.fromkeys([SPACE, *self.letters.replace(" ", "")])
        return [
            *marks,
            *((f"<0x{number:02X}>", 0.0, BYTE) for number in range(256)),
            *((text, -float(rank), NORMAL) for rank, text in enumerate(self.merges)),
            *((letter, -1000.0 - rank, NORMAL) for rank, letter in enumerate(letters)),
            *((text, 0.0, kind) for text, kind in self.extra),
        ]

    def encode(self) -> bytes:
        pieces = b"".join(
            _field(1, _field(1, text.encode()) + _float(2, score) + _field(3, kind))
            for text, score, kind in self.pieces
        )
        trainer = {3: self.kind, 35: 1} | self.trainer
        normaliser = {1: b"identity", 4: 0} | self.normaliser
        settings = (b"".join(_field(number, value) for number, value in part.items()) for part in (trainer, normaliser))
        return pieces + b"".join(_field(number, part) for number, part in zip((2, 3), settings, strict=True))

    def split(self, text: str) -> list[int]:
        """Merge the two neighbours that make the best-scored piece, the leftmost first, until none do."""
        scores = {piece: score for piece, score, kind in self.pieces if kind == NORMAL}
        ids = {piece: index for index, (piece, _, _) in enumerate(self.pieces)}
        parts = list(SPACE + text.replace(" ", SPACE)) if text else []
        while True:
            pairs = [
                (scores.get(left + right, -float("inf")), -index)
                for index, (left, right) in enumerate(itertools.pairwise(parts))
            ]
            best = max(pairs, default=(-float("inf"), 0))
            if best[0] == -float("inf"):
                break
            at = -best[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        spelled = ([part] if part in ids else [f"<0x{byte:02X}>" for byte in part.encode()] for part in parts)
        return [ids[piece] for part in spelled for piece in part]


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
