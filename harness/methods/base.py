"""What a method is to the rest of the harness: parse the request, check the model, compress it in place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from harness.architectures.blocks import Block, linears_of
from harness.contract import (
    CheckpointFormat,
    CompressParameters,
    Dtype,
    Frozen,
    LayerReport,
    Quantization,
    Reason,
    Sparsity,
)
from harness.errors import Unsupported
from harness.methods.skeleton.finished import FinishedBlocks
from harness.reporter import Reporter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class CompressionContext:
    """`sequences`: calibration text, each int64 [tokens]; none for a method that looks at weights alone.

    `device` is where to compute; the model is in host memory.

    `storage_dtype` is what the weights will be written in: a method rounds to it, so that the next block is fed by the
    very weights that are stored. `source` is the folder of the checkpoint; `inputs` are the request's, by name.
    `finished` keeps what an interrupted attempt must not lose. `offload_activations` keeps them in host memory.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    blocks: tuple[Block, ...]
    sequences: tuple[Tensor, ...]
    device: torch.device
    storage_dtype: Dtype
    reporter: Reporter
    finished: FinishedBlocks
    source: Path
    inputs: Mapping[str, Path]
    offload_activations: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a method made. `write` writes the checkpoint's files into a folder that does not exist yet.

    `notes` reach the descriptor and the report: whatever the method decided by itself. `parameter_count` and
    `architecture` are None where they are still the parent's. `resumed_seconds` is what earlier attempts spent on the
    blocks that this one took over, less what it took to take them over.
    """

    write: Callable[[Path], None]
    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()
    format: CheckpointFormat = CheckpointFormat.DENSE
    sparsity: Sparsity | None = None
    quantization: Quantization | None = None
    parameter_count: int | None = None
    architecture: str | None = None
    recovery_seconds: float | None = None
    resumed_blocks: int = 0
    resumed_seconds: float = 0.0


class Compressor(Protocol):
    """One request to one method, parsed. `options` holds every option, the defaults included."""

    @property
    def options(self) -> Frozen: ...

    def check(self, blocks: Sequence[Block]) -> None:
        """Raise Unsupported where the model's shapes do not allow the setting: called before any work is done."""

    def compress(self, context: CompressionContext) -> Outcome: ...


class Method(Protocol):
    """What the module of a method offers. `OPTIONS` has the options model of each method that the module does."""

    OPTIONS: Mapping[str, type[Frozen]]

    @staticmethod
    def parse(parameters: CompressParameters) -> Compressor:
        """Raise BadRequest or Unsupported where the setting or an option cannot be used."""


def refuse_indivisible(blocks: Sequence[Block], divisor: int, what: str) -> None:
    """Raise Unsupported where an input size is no multiple of `divisor`, naming the linears and what would do.

    Raises:
        Unsupported: some linear's input size is not a multiple.
    """
    linears = linears_of(blocks)
    uneven = [linear for linear in linears if linear.module.in_features % divisor]
    if not uneven:
        return
    listed = ", ".join(f"{linear.name} ({linear.module.in_features})" for linear in uneven[:4])
    fitting = [size for size in (128, 64, 32, 16, 8, 4) if not any(one.module.in_features % size for one in linears)]
    raise Unsupported(
        Reason.SHAPE,
        f"{what} needs input sizes that are multiples of {divisor}; {len(uneven)} linear(s) have others: {listed}",
        hint=f"sizes that divide every input here: {', '.join(map(str, fitting)) or 'none of 128 to 4'}",
    )
