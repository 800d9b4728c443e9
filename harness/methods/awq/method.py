"""AWQ (Lin et al., 2023, arXiv:2306.00978): weights are scaled and clipped so that rounding them hurts least.

Each block is observed on what the uncompressed model feeds it, as in the authors' code. All searches of a block are on
its original weights; then the scales are folded into it, the ranges are narrowed, and the weights rounded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from harness.architectures.blocks import Block, LinearGroup, NamedLinear, linears_of
from harness.contract import CheckpointFormat, CompressParameters, Frozen, LayerReport, Quantization, Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.methods.awq.clipping import clip, search_clipping
from harness.methods.awq.inspection import Inspection, LinearInspection, ModuleInspection, ModuleRecording
from harness.methods.awq.scale_search import (
    FoundScale,
    candidate_scales,
    mean_relative_magnitude,
    search_notes,
    search_scale,
    searched_batches,
)
from harness.methods.base import CompressionContext, Outcome, refuse_indivisible
from harness.methods.numerics.hessian import Hessian
from harness.methods.numerics.rounding import RoundingGrid, quantize
from harness.methods.numerics.scaling import BlockPairs, PairKind, missing_pairs, smoothable_pairs
from harness.methods.skeleton.finished import BlockResult
from harness.methods.skeleton.saving import finish
from harness.methods.skeleton.sequential import compress_blocks, observe, put_quantized, round_parameters
from harness.methods.skeleton.stream import open_stream
from harness.models.loading import TORCH_DTYPES
from harness.options import parse_options
from harness.quantization.layouts.refusals import refuse_bits, refuse_uneven_rows
from harness.quantization.weight import QuantizedWeight
from harness.telemetry import Stopwatch

_FORMATS = {
    "compressed-tensors": CheckpointFormat.PACK_QUANTIZED,
    "awq": CheckpointFormat.AWQ,
    "dense": CheckpointFormat.DENSE,
}
_AWQ_BITS = (4,)
_CLIPPING_TOKENS = 512
"""The authors' sample of tokens for the clipping."""
_NEVER_CLIPPED = ("q_proj", "k_proj")
"""Their product makes the attention's scores, for which the error of one alone says little (authors' code)."""


class AwqOptions(Frozen):
    """`n_grid` counts the steps from 0 to 1 of both searches; ranges shrink by less than `max_shrink`.

    `search_tokens`: how much text the attention and the feed-forward part are run on for each step; 0 is all.
    """

    search_scale: bool = True
    search_clip: bool = True
    duo_scaling: bool = False
    n_grid: PositiveInt = 20
    max_shrink: float = Field(default=0.5, gt=0, le=1)
    search_tokens: NonNegativeInt = 65536
    symmetric: bool = False
    layout: Literal["compressed-tensors", "awq", "dense"] = "compressed-tensors"
    batch_size: PositiveInt = 4


OPTIONS = {"awq": AwqOptions}


def parse(parameters: CompressParameters) -> "Awq":
    """Read the setting and the options of a request.

    Raises:
        Unsupported: the setting is no weight-only quantization, or the layout cannot hold it.
        BadRequest: an option is unknown or out of range.
    """
    setting = parameters.setting
    if setting.weight_bits is None or not 2 <= setting.weight_bits <= 8 or setting.activation_bits != 16:
        raise Unsupported(
            Reason.SETTING,
            f"awq quantizes weights alone, to 2 to 8 bits, so it has no setting {setting.name!r}",
            hint="use for example 'W4A16g128' (groups of 128 inputs) or 'W4A16' (whole rows)",
        )
    options = parse_options(AwqOptions, parameters.options, "awq")
    if options.layout == "awq":
        refuse_bits("awq", setting.weight_bits, _AWQ_BITS)
    return Awq(setting.weight_bits, setting.group_size, options)


class Awq:
    """A parsed request; see `harness.methods.base.Compressor`."""

    def __init__(self, bits: int, group_size: int, options: AwqOptions) -> None:
        self._bits = bits
        self._group_size = group_size
        self.options = options

    def check(self, blocks: Sequence[Block]) -> None:
        if self._group_size:
            refuse_indivisible(blocks, self._group_size, f"a group size of {self._group_size}")
        if self.options.layout == "awq":
            refuse_uneven_rows("awq", linears_of(blocks))
        if self.options.search_scale:
            for block in blocks:
                smoothable_pairs(block)

    def compress(self, context: CompressionContext) -> Outcome:
        storage = TORCH_DTYPES[context.storage_dtype]
        grid = RoundingGrid(self._bits, self._group_size, self.options.symmetric, storage)
        work = _Work(grid, self.options, context)
        summary = compress_blocks(context, work)
        checkpoint_format = _FORMATS[self.options.layout]
        quantization = Quantization(
            weight_bits=self._bits,
            activation_bits=16,
            group_size=self._group_size,
            symmetric=self.options.symmetric,
            simulated=checkpoint_format is CheckpointFormat.DENSE,
        )
        return finish(
            context, summary, checkpoint_format=checkpoint_format, quantization=quantization, notes=work.notes
        )


class Observed:
    """Of a group's inputs: their mean magnitude, some of them for the clipping, and their second moments if asked."""

    def __init__(self, group: LinearGroup, device: torch.device, *, stride: int, moments: bool, sample: bool) -> None:
        self._hessian = Hessian(group, device) if moments else None
        self._magnitude = torch.zeros(group.in_features, device=device)
        self._stride = stride
        self._samples: list[Tensor] | None = [] if sample else None
        self._tokens = 0
        self._sequences = 0

    @property
    def magnitude(self) -> Tensor:
        """Mean |x| of each channel, [in_features]."""
        return self._magnitude / self._tokens

    @property
    def moments(self) -> Tensor:
        """Mean xxᵀ, [in_features, in_features] in float32."""
        assert self._hessian is not None  # noqa: S101  asked for only where they were wanted
        return self._hessian.matrix * (self._sequences / 2 / self._tokens)

    @property
    def samples(self) -> Tensor:
        """Every stride-th token of the whole calibration text, [tokens, in_features] in float32 or better."""
        assert self._samples is not None  # noqa: S101  asked for only where they were wanted
        return torch.cat(self._samples)

    def add(self, inputs: Tensor, sequences: int) -> None:
        exact = torch.promote_types(inputs.dtype, torch.float32)
        self._magnitude = self._magnitude + inputs.abs().sum(0, dtype=exact)
        if self._hessian is not None:
            self._hessian.add(inputs, sequences)
        if self._samples is not None:
            self._samples.append(inputs[-self._tokens % self._stride :: self._stride].to(exact, copy=True))
        self._tokens += len(inputs)
        self._sequences += sequences


class _Work:
    """AWQ's part of `compress_blocks`. Its stream follows the uncompressed model."""

    def __init__(self, grid: RoundingGrid, options: AwqOptions, context: CompressionContext) -> None:
        self._grid = grid
        self._options = options
        self._context = context
        self._stride = max(1, sum(len(sequence) for sequence in context.sequences) // _CLIPPING_TOKENS)
        self._shrinks = [step / options.n_grid for step in range(max(1, int(options.max_shrink * options.n_grid)))]
        self._stream = open_stream(
            context.model,
            context.blocks,
            context.sequences,
            batch_size=options.batch_size,
            device=context.device,
            offload=context.offload_activations,
        )
        self._searched = searched_batches(self._stream, options.search_tokens)
        self._winners: dict[PairKind, int] = {}
        self.notes = self._search_notes()

    def compress(self, block: Block) -> BlockResult:
        with Stopwatch(self._context.device) as watch:
            pairs = smoothable_pairs(block) if self._options.search_scale else BlockPairs({}, {})
            found, samples = self._search(block, pairs)
            folded = {kind: pairs.found[kind].fold(one.scale, self._grid.scale_dtype) for kind, one in found.items()}
            quantized: dict[str, QuantizedWeight] = {}
            for kind, group in zip(PairKind, block.groups, strict=True):
                inputs = samples.get(kind)
                if inputs is not None and kind in folded:
                    inputs = inputs / folded[kind]
                for linear in group.linears:
                    quantized[linear.name] = quantize(self._clip(linear, inputs), self._grid)
                    put_quantized(linear.module.weight, quantized[linear.name], self._context)
            round_parameters(block, self._context)
        packed = self._options.layout != "dense"
        return BlockResult(layers=_reports(block, found, watch.seconds), quantized=quantized if packed else {})

    def skip(self, block: Block, restore: Callable[[], None]) -> None:
        self._stream.advance(block)
        restore()

    def _search(self, block: Block, pairs: BlockPairs) -> tuple[dict[PairKind, FoundScale], dict[PairKind, Tensor]]:
        """The best scale of each pair, and the inputs that the clipping is to look at; the stream moves on.

        Raises:
            BadCheckpoint: no scale of some group gives a finite output.
        """
        modules = _inspected_modules(block, pairs)
        recordings = {kind: ModuleRecording(one, self._stream, self._searched) for kind, one in modules.items()}
        observed = self._observe(block, pairs, recordings)
        found = {}
        for kind, pair in pairs.found.items():
            linears = [linear.module for linear in pair.after.linears]
            inspection: Inspection = (
                ModuleInspection(recordings.pop(kind), linears)
                if kind in modules
                else LinearInspection(linears[0], observed[kind].moments)
            )
            weights = mean_relative_magnitude(linears, self._grid) if self._options.duo_scaling else None
            candidates = candidate_scales(observed[kind].magnitude, self._options.n_grid, weights)
            first = self._winners.get(kind, len(candidates) // 2)
            found[kind] = search_scale(linears, candidates, self._grid, inspection, first=first)
            if math.isinf(found[kind].loss):
                raise BadCheckpoint(
                    f"the inputs of {pair.after.linears[0].name}, or what is made of them, hold NaN or infinity",
                    hint="evaluate the dense checkpoint: it may overflow in its dtype, or be damaged",
                )
            self._winners[kind] = found[kind].candidate
        return found, {kind: one.samples for kind, one in observed.items()} if self._options.search_clip else {}

    def _observe(
        self, block: Block, pairs: BlockPairs, recordings: Mapping[PairKind, ModuleRecording]
    ) -> dict[PairKind, Observed]:
        kind_of = dict(zip(block.groups, PairKind, strict=True))

        def observer(group: LinearGroup) -> Observed:
            alone = kind_of[group] in pairs.found and kind_of[group] not in recordings
            return Observed(
                group, self._context.device, stride=self._stride, moments=alone, sample=self._options.search_clip
            )

        with ExitStack() as watched:
            for recording in recordings.values():
                watched.enter_context(recording.recording())
            statistics = observe(self._stream, block, block.groups, observer, advance=True)
        return dict(zip(PairKind, statistics, strict=True))

    def _search_notes(self) -> tuple[str, ...]:
        """Between what no scale is searched, and on which part of the text the others are."""
        if not self._options.search_scale:
            return ()
        return (*missing_pairs(self._context.blocks), *search_notes(self._stream, self._searched))

    def _clip(self, linear: NamedLinear, inputs: Tensor | None) -> Tensor:
        weight = linear.module.weight
        if inputs is None or linear.name.endswith(_NEVER_CLIPPED):
            return weight
        return clip(weight, search_clipping(weight, inputs, self._grid, shrinks=self._shrinks), self._grid)


def _inspected_modules(block: Block, pairs: BlockPairs) -> dict[PairKind, nn.Module]:
    """The pairs whose loss is that of a whole module: attention, and a gated feed-forward part."""
    modules = {PairKind.INPUT_NORM: block.attention}
    if block.family.gated:
        path, _, _ = block.family.groups[2][0].rpartition(".")
        modules[PairKind.MLP_NORM] = block.module.get_submodule(path)
    return {kind: module for kind, module in modules.items() if kind in pairs.found}


def _reports(block: Block, found: Mapping[PairKind, FoundScale], seconds: float) -> tuple[LayerReport, ...]:
    total = sum(linear.module.weight.numel() for linear in block.linears)
    return tuple(
        LayerReport(
            name=linear.name,
            error=found[kind].loss if kind in found else None,
            seconds=seconds * linear.module.weight.numel() / total,
        )
        for kind, group in zip(PairKind, block.groups, strict=True)
        for linear in group.linears
    )
