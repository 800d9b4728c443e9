"""A SentencePiece BPE model as a tokenizer of the `tokenizers` library, without the sentencepiece package.

The file is a protocol buffer, `sentencepiece_model.proto`. Read here: the pieces with their scores and types, and of
the trainer's and normaliser's settings those that change how text is split. Not covered: unigram models, user-defined
pieces and normalisation rules, which are refused.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPACE = "▁"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_BPE = 2
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_HINT = "save the tokenizer as tokenizer.json with transformers, and give the model as `dir:PATH`"

Field = tuple[int, int | bytes]


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """`pieces` by id. `dummy_prefix`: a blank is put before the text; `squeeze_blanks`: runs of blanks become one."""

    pieces: tuple[Piece, ...]
    byte_fallback: bool
    dummy_prefix: bool
    squeeze_blanks: bool

    @property
    def unknown(self) -> str:
        return next(piece.text for piece in self.pieces if piece.kind == _UNKNOWN)


def read_model(path: Path) -> SentencePieceModel:
    """Read `tokenizer.model`.

    Raises:
        BadCheckpoint: it is no SentencePiece model.
        Unsupported: it splits text in a way that is not covered here.
    """
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = tuple(_piece(value) for number, value in fields if number == 1 and isinstance(value, bytes))
        trainer = _last(fields, 2)
        normaliser = _last(fields, 3)
    except (ValueError, IndexError, struct.error) as broken:
        raise BadCheckpoint(f"{path.name} is not a SentencePiece model", hint="copy or download it again") from broken
    if not any(piece.kind == _UNKNOWN for piece in pieces):
        raise BadCheckpoint(f"{path.name} holds no pieces of a SentencePiece model", hint="copy or download it again")
    _refuse(path.name, pieces, trainer, normaliser)
    return SentencePieceModel(
        pieces=pieces,
        byte_fallback=bool(trainer.get(35, 0)),
        dummy_prefix=bool(normaliser.get(3, 1)),
        squeeze_blanks=bool(normaliser.get(4, 1)),
    )


def build_tokenizer(model: SentencePieceModel, appended: tuple[str, ...]) -> "Tokenizer":
    """The tokenizer of `model`. `appended` get the ids after its pieces, and are never found in text."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    vocabulary = {piece.text: index for index, piece in enumerate(model.pieces)}
    vocabulary |= {token: len(model.pieces) + index for index, token in enumerate(appended)}
    tokenizer = Tokenizer(
        BPE(
            vocabulary,
            merges(model.pieces),
            unk_token=model.unknown,
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    )
    steps: list[normalizers.Normalizer] = []
    if model.squeeze_blanks:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    ends = [decoders.Strip(" ", 1, 0)] if model.dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    return tokenizer


def merges(pieces: tuple[Piece, ...]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece: the best-scored results first, as SentencePiece merges them."""
    normal = {piece.text: (index, piece.score) for index, piece in enumerate(pieces) if piece.kind == _NORMAL}
    pairs = [
        (-score, index, text[:cut], text[cut:])
        for text, (index, score) in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    return [(left, right) for _, _, left, right in sorted(pairs)]


def _refuse(
    name: str, pieces: tuple[Piece, ...], trainer: dict[int, int | bytes], normaliser: dict[int, int | bytes]
) -> None:
    if trainer.get(3, 1) != _BPE:
        problem = "is not a BPE model"
    elif any(piece.kind == _USER_DEFINED for piece in pieces):
        problem = "has user-defined pieces"
    elif normaliser.get(2):
        problem = "normalises text by rules of its own"
    elif trainer.get(24, 0) or not normaliser.get(5, 1):
        problem = "treats blanks in an unusual way"
    else:
        return
    raise Unsupported(Reason.FORMAT, f"the tokenizer's {name} {problem}, which is not converted here", hint=_HINT)


def _piece(message: bytes) -> Piece:
    values = dict(_fields(message))
    text, score = values[1], values.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise ValueError("a piece without text")  # noqa: TRY004  the file's content is wrong, not a type
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], int(values.get(3, _NORMAL)))


def _last(fields: list[Field], number: int) -> dict[int, int | bytes]:
    """The fields of the sub-message `number`; empty where it is absent."""
    found = [value for key, value in fields if key == number and isinstance(value, bytes)]
    return dict(_fields(found[-1])) if found else {}


def _fields(message: bytes) -> Iterator[Field]:
    """Number and value of each field of a protocol buffer's message. A fixed-width value comes as its bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == _LENGTH:
            size, position = _varint(message, position)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"no such wire type: {wire}")
        if position + size > len(message):
            raise ValueError("a field ends after its message")
        yield number, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return value, position
