"""What a method is to the rest of the harness: parse the request, check the model, compress it in place."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harness.contract import CompressParameters, Dtype, Frozen, LayerReport, Scalar
from harness.errors import BadRequest
from harness.models.blocks import Block
from harness.reporter import Reporter


@dataclass(frozen=True)
class CompressionContext:
    """`tokens`: int64 [samples, sequence] calibration text. `device` is where to compute; the model is in host memory.

    `storage_dtype` is what the weights will be written in: a method rounds to it, so that the next block is fed by the
    very weights that are stored.
    """

    model: nn.Module
    blocks: tuple[Block, ...]
    tokens: Tensor
    device: torch.device
    storage_dtype: Dtype
    reporter: Reporter


@dataclass(frozen=True)
class Outcome:
    """`notes` reach the descriptor and the report: whatever the method decided by itself."""

    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()


class Compressor(Protocol):
    """One request to one method, parsed. `options` holds every option, the defaults included."""

    @property
    def options(self) -> Frozen: ...

    def check(self, blocks: Sequence[Block]) -> None:
        """Raise Unsupported where the model's shapes do not allow the setting: called before any work is done."""

    def compress(self, context: CompressionContext) -> Outcome:
        """Change the weights of the blocks' linears in place."""


class Method(Protocol):
    """What a method's module offers."""

    @staticmethod
    def parse(parameters: CompressParameters) -> Compressor:
        """Raise BadRequest or Unsupported where the setting or an option cannot be used."""


Options = TypeVar("Options", bound=Frozen)


def parse_options(model: type[Options], given: dict[str, Scalar], method: str) -> Options:
    """Validate a method's options without converting between types.

    Raises:
        BadRequest: an option is unknown (the message names the nearest) or its value is not allowed.
    """
    for name in given:
        if name not in model.model_fields:
            raise BadRequest(
                f"{method} has no option {name!r}{suggest(name, model.model_fields)}",
                hint=f"its options are: {', '.join(model.model_fields)}",
            )
    try:
        return model.model_validate(given, strict=True)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        option = ".".join(str(part) for part in first["loc"])
        raise BadRequest(
            f"option {option!r} of {method} cannot be {first['input']!r}: {first['msg']}",
            hint="docs/methods.md lists the options, their defaults and their ranges",
        ) from invalid


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
