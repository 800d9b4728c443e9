"""A SentencePiece BPE model as a tokenizer of the `tokenizers` library.

Of the model are used: the pieces with their scores and types, and of the trainer's and normaliser's settings those that
change how text is split. Not covered: unigram models, user-defined pieces and normalisation rules, which are refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported

if TYPE_CHECKING:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto
    from tokenizers import Tokenizer

_SPACE = "▁"
_NORMAL, _UNKNOWN, _USER_DEFINED = 1, 2, 4
_BPE = 2
_HINT = "save the tokenizer as tokenizer.json with transformers, and give the model as `dir:PATH`"


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """`pieces` by id. `unknown` stands for what no piece does; None leaves that out.

    `dummy_prefix`: a blank is put before the text; `squeeze_blanks`: runs of blanks become one.
    """

    pieces: tuple[Piece, ...]
    unknown: str | None
    byte_fallback: bool
    dummy_prefix: bool
    squeeze_blanks: bool


def read_model(path: Path) -> SentencePieceModel:
    """Read `tokenizer.model`.

    Raises:
        BadCheckpoint: it is no SentencePiece model.
        Unsupported: it splits text in a way that is not covered here.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    try:
        model = ModelProto.FromString(path.read_bytes())
        pieces = tuple(Piece(piece.piece, piece.score, piece.type) for piece in model.pieces)
    except (DecodeError, UnicodeDecodeError) as broken:
        raise BadCheckpoint(f"{path.name} is not a SentencePiece model", hint="copy or download it again") from broken
    unknown = next((piece.text for piece in pieces if piece.kind == _UNKNOWN), None)
    if unknown is None:
        raise BadCheckpoint(f"{path.name} holds no pieces of a SentencePiece model", hint="copy or download it again")
    _refuse(path.name, model)
    return SentencePieceModel(
        pieces=pieces,
        unknown=unknown,
        byte_fallback=model.trainer_spec.byte_fallback,
        dummy_prefix=model.normalizer_spec.add_dummy_prefix,
        squeeze_blanks=model.normalizer_spec.remove_extra_whitespaces,
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


def _refuse(name: str, model: "ModelProto") -> None:
    trainer, normaliser = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != _BPE:
        problem = "is not a BPE model"
    elif any(piece.type == _USER_DEFINED for piece in model.pieces):
        problem = "has user-defined pieces"
    elif normaliser.precompiled_charsmap:
        problem = "normalises text by rules of its own"
    elif trainer.treat_whitespace_as_suffix or not normaliser.escape_whitespaces:
        problem = "treats blanks in an unusual way"
    else:
        return
    raise Unsupported(Reason.FORMAT, f"the tokenizer's {name} {problem}, which is not converted here", hint=_HINT)
