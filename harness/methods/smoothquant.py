"""SmoothQuant (Xiao et al., 2022, arXiv:2211.10438): what is hard to round moves from activations to weights.

Smoothing (section 4) divides what a norm puts out by a factor a channel, and the linears behind it make up for it. Then
weights are rounded row by row; activations are rounded token by token wherever the checkpoint runs. The activations are
observed on the uncompressed model, as in the authors' code.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from harness.architectures.blocks import Block, LinearGroup
from harness.contract import (
    AttentionRounding,
    CheckpointFormat,
    CompressParameters,
    Frozen,
    LayerReport,
    Quantization,
    Reason,
)
from harness.errors import BadCheckpoint, Unsupported
from harness.methods.base import CompressionContext, Outcome
from harness.methods.numerics.rounding import RoundingGrid, quantize
from harness.methods.numerics.scaling import PairKind, ScalePair, missing_pairs, smoothable_pairs
from harness.methods.skeleton.finished import BlockResult
from harness.methods.skeleton.saving import finish
from harness.methods.skeleton.sequential import compress_blocks, observe, put_quantized, round_parameters
from harness.methods.skeleton.stream import open_stream
from harness.models.loading import TORCH_DTYPES
from harness.options import parse_options
from harness.telemetry import Stopwatch

_SMOOTHED = (PairKind.INPUT_NORM, PairKind.MLP_NORM)
_SMALLEST_MAGNITUDE = 1e-5
_LLAMA_1_CONTEXT, _LLAMA_2_CONTEXT, _LARGEST_LAYERS = 2048, 4096, 80
_CODE_DEFAULT = 0.5


class SmoothQuantOptions(Frozen):
    """`alpha` None is the authors' value for the model; `layout` None is the one that holds the setting."""

    alpha: float | None = Field(default=None, ge=0, le=1)
    quantize_bmm: bool = False
    layout: Literal["compressed-tensors", "dense"] | None = None
    batch_size: PositiveInt = 4


OPTIONS = {"smoothquant": SmoothQuantOptions}


def parse(parameters: CompressParameters) -> "SmoothQuant":
    """Read the setting and the options of a request.

    Raises:
        Unsupported: the setting does not quantize whole rows and activations, or the layout cannot hold it.
        BadRequest: an option is unknown or out of range.
    """
    setting = parameters.setting
    weight_bits, activation_bits = setting.weight_bits or 0, setting.activation_bits or 0
    if not (2 <= weight_bits <= 8 and 2 <= activation_bits <= 8) or setting.group_size:
        raise Unsupported(
            Reason.SETTING,
            f"smoothquant quantizes whole rows of weights and activations, so it has no setting {setting.name!r}",
            hint="use 'W8A8', which engines compute in integers, or for example 'W4A4' (simulated)",
        )
    options = parse_options(SmoothQuantOptions, parameters.options, "smoothquant")
    integers = weight_bits == activation_bits == 8
    layout = options.layout or ("compressed-tensors" if integers else "dense")
    if layout == "compressed-tensors" and (options.quantize_bmm or not integers):
        what = "quantized queries, keys and values" if options.quantize_bmm else setting.name
        raise Unsupported(
            Reason.SETTING,
            f"compressed-tensors/int-quantized has no place for {what}",
            hint="use layout 'dense', which stores the rounded values (simulated)",
        )
    return SmoothQuant(weight_bits, activation_bits, options.model_copy(update={"layout": layout}))


class SmoothQuant:
    """A parsed request; see `harness.methods.base.Compressor`. Compressing fills in the option `alpha`."""

    def __init__(self, weight_bits: int, activation_bits: int, options: SmoothQuantOptions) -> None:
        self._weight_bits = weight_bits
        self._activation_bits = activation_bits
        self.options = options

    def check(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            smoothable_pairs(block)

    def compress(self, context: CompressionContext) -> Outcome:
        notes = missing_pairs(context.blocks, _SMOOTHED)
        if self.options.alpha is None:
            alpha, reason = published_alpha(type(context.model).__name__, context.model.config)
            notes.append(f"alpha is {alpha}: {reason}")
            self.options = self.options.model_copy(update={"alpha": alpha})
        storage = TORCH_DTYPES[context.storage_dtype]
        grid = RoundingGrid(self._weight_bits, 0, symmetric=True, scale_dtype=storage)
        summary = compress_blocks(context, _Work(grid, self.options, context))
        packed = self.options.layout == "compressed-tensors"
        quantization = Quantization(
            weight_bits=self._weight_bits,
            activation_bits=self._activation_bits,
            attention_bits=self._activation_bits if self.options.quantize_bmm else None,
            attention_rounding=AttentionRounding.PROJECTIONS if self.options.quantize_bmm else AttentionRounding.HEADS,
            simulated=not packed,
        )
        checkpoint_format = CheckpointFormat.INT_QUANTIZED if packed else CheckpointFormat.DENSE
        return finish(
            context, summary, checkpoint_format=checkpoint_format, quantization=quantization, notes=tuple(notes)
        )


def published_alpha(architecture: str, config: Any) -> tuple[float, str]:
    """The authors' migration strength for a model, and the reason for it in words."""
    context = getattr(config, "max_position_embeddings", 0)
    if architecture == "OPTForCausalLM":
        return 0.5, "the authors' value for OPT"
    if architecture == "MistralForCausalLM":
        return 0.8, "the authors' value for Mistral"
    if architecture == "LlamaForCausalLM":
        if context <= _LLAMA_1_CONTEXT:
            return 0.8, f"the authors' value for LLaMA-1, taken for all Llamas of at most {_LLAMA_1_CONTEXT} tokens"
        if context == _LLAMA_2_CONTEXT and config.num_hidden_layers == _LARGEST_LAYERS:
            return 0.9, f"the authors' value for Llama-2-70B, known by its context and its {_LARGEST_LAYERS} layers"
        return 0.85, f"the authors' value for Llama-2 and Llama-3, since the context is {context} tokens"
    return _CODE_DEFAULT, f"the default of the authors' code, which has no value for {architecture}"


class LargestMagnitude:
    """The largest |x| of each input channel, [in_features] in float32 or better."""

    def __init__(self, group: LinearGroup, device: torch.device) -> None:
        self.values = torch.zeros(group.in_features, device=device)

    def add(self, inputs: Tensor, sequences: int) -> None:
        self.values = torch.maximum(self.values, inputs.abs().amax(0))


def smoothing_scale(activations: Tensor, group: LinearGroup, alpha: float) -> Tensor:
    """Equation 4: max|x|^alpha / max|w|^(1-alpha) for each input channel, over all the group's weights.

    activations: the largest magnitude of each channel, [in_features]. A channel that is always 0 keeps a factor of 1.
    """
    weights = torch.stack([linear.module.weight.abs().amax(0) for linear in group.linears]).amax(0)
    weights = weights.to(activations.dtype).clamp(min=_SMALLEST_MAGNITUDE)
    scale = (activations.pow(alpha) / weights.pow(1 - alpha)).clamp(min=_SMALLEST_MAGNITUDE)
    return scale.where(activations > 0, 1)


class _Work:
    """SmoothQuant's part of `compress_blocks`. Its stream follows the uncompressed model."""

    def __init__(self, grid: RoundingGrid, options: SmoothQuantOptions, context: CompressionContext) -> None:
        self._grid = grid
        self._options = options
        self._context = context
        self._stream = open_stream(
            context.model,
            context.blocks,
            context.sequences,
            batch_size=options.batch_size,
            device=context.device,
            offload=context.offload_activations,
        )

    def compress(self, block: Block) -> BlockResult:
        with Stopwatch(self._context.device) as watch:
            self._smooth(block, [pair for kind, pair in smoothable_pairs(block).found.items() if kind in _SMOOTHED])
            quantized = {linear.name: quantize(linear.module.weight, self._grid) for linear in block.linears}
            for linear in block.linears:
                put_quantized(linear.module.weight, quantized[linear.name], self._context)
            round_parameters(block, self._context)
        weights = {linear.name: linear.module.weight.numel() for linear in block.linears}
        share = watch.seconds / sum(weights.values())
        return BlockResult(
            layers=tuple(LayerReport(name=name, seconds=share * count) for name, count in weights.items()),
            quantized=quantized if self._options.layout == "compressed-tensors" else {},
        )

    def skip(self, block: Block, restore: Callable[[], None]) -> None:
        if block is not self._context.blocks[-1]:
            self._stream.advance(block)
        restore()

    def _smooth(self, block: Block, pairs: list[ScalePair]) -> None:
        alpha = self._options.alpha
        assert alpha is not None  # noqa: S101  filled in before
        groups = [pair.after for pair in pairs]
        last = block is self._context.blocks[-1]
        observed = observe(
            self._stream,
            block,
            groups,
            lambda group: LargestMagnitude(group, self._context.device),
            advance=not last,
        )
        _refuse_overflow(groups, [one.values for one in observed])
        for pair, one in zip(pairs, observed, strict=True):
            pair.fold(smoothing_scale(one.values, pair.after, alpha), self._grid.scale_dtype)


def _refuse_overflow(groups: Sequence[LinearGroup], magnitudes: Sequence[Tensor]) -> None:
    finite = torch.stack([torch.isfinite(values).all() for values in magnitudes]).tolist() if groups else []
    for group, sound in zip(groups, finite, strict=True):
        if not sound:
            raise BadCheckpoint(
                f"the inputs of {group.linears[0].name} hold NaN or infinity on the calibration text",
                hint="evaluate the dense checkpoint: it may overflow in its dtype, or be damaged",
            )
