"""Rounding to nearest: each weight becomes the nearest value of its grid. What every quantization is held against.

The grids are those that AWQ, SmoothQuant and OmniQuant begin with, fitted to the extremes of a row or group. With
activations, these are rounded token by token where the checkpoint runs. No text is looked at, no error is made up for.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from harness.architectures.blocks import Block, linears_of
from harness.contract import (
    AttentionRounding,
    CheckpointFormat,
    CompressParameters,
    Frozen,
    LayerReport,
    Quantization,
    Reason,
    Setting,
)
from harness.errors import BadRequest, Unsupported
from harness.methods.base import CompressionContext, Outcome, refuse_indivisible
from harness.methods.numerics.rounding import RoundingGrid, quantize
from harness.methods.skeleton.finished import BlockResult
from harness.methods.skeleton.saving import finish
from harness.methods.skeleton.sequential import compress_blocks, put_quantized, round_parameters
from harness.models.loading import TORCH_DTYPES
from harness.options import parse_options
from harness.quantization.layouts.refusals import refuse_bits, refuse_broken_words, refuse_uneven_rows
from harness.telemetry import Stopwatch

_NOT_QUANTIZED_BITS = 16
_BITS = range(2, 9)
_GPTQ_BITS, _AWQ_BITS = (2, 3, 4, 8), (4,)
_FORMATS = {
    "compressed-tensors": CheckpointFormat.PACK_QUANTIZED,
    "gptq": CheckpointFormat.GPTQ,
    "awq": CheckpointFormat.AWQ,
    "dense": CheckpointFormat.DENSE,
}


class RtnOptions(Frozen):
    """`symmetric` None: as the setting usually is, asymmetric for weights alone, symmetric with activations.

    `attention`: whether, and where, queries, keys and values are rounded, too (see `AttentionRounding`). `layout` None
    is the one that holds the setting.
    """

    symmetric: bool | None = None
    attention: Literal["none", "heads", "projections"] = "none"
    layout: Literal["compressed-tensors", "gptq", "awq", "dense"] | None = None


OPTIONS = {"rtn": RtnOptions}


def parse(parameters: CompressParameters) -> "Rtn":
    """Read the setting and the options of a request.

    Raises:
        Unsupported: the setting is no quantization of 2 to 8 bits, or the layout cannot hold it.
        BadRequest: an option is unknown, out of range, or without meaning for the setting.
    """
    setting = parameters.setting
    weight_bits, activation_bits = setting.weight_bits or 0, setting.activation_bits or 0
    weights_alone = activation_bits == _NOT_QUANTIZED_BITS
    both = activation_bits in _BITS and not setting.group_size
    if weight_bits not in _BITS or not (weights_alone or both):
        raise Unsupported(
            Reason.SETTING,
            f"rtn rounds weights to 2 to 8 bits, or whole rows of them and activations: it has no {setting.name!r}",
            hint="use for example 'W4A16g128' (groups of 128 inputs), 'W4A16' (whole rows) or 'W8A8'",
        )
    options = parse_options(RtnOptions, parameters.options, "rtn")
    if options.attention != "none" and weights_alone:
        raise BadRequest(
            f"{setting.name} leaves activations as they are, and with them queries, keys and values",
            hint="leave `attention` out, or use a setting such as 'W4A4'",
        )
    symmetric = options.symmetric if options.symmetric is not None else not weights_alone
    held = _layouts_for(setting, symmetric=symmetric, attention=options.attention != "none")
    layout = options.layout or held[0]
    if layout not in held:
        kind = "symmetric" if symmetric else "asymmetric"
        what = (
            setting.name if options.attention == "none" else f"{setting.name} with quantized queries, keys and values"
        )
        raise Unsupported(
            Reason.SETTING,
            f"layout {layout!r} has no place for {what}, {kind}",
            hint="use layout 'dense', which stores the rounded values (simulated)",
        )
    if layout == "gptq":
        refuse_bits("gptq", weight_bits, _GPTQ_BITS)
    if layout == "awq":
        refuse_bits("awq", weight_bits, _AWQ_BITS)
    return Rtn(setting, options.model_copy(update={"symmetric": symmetric, "layout": layout}))


def _layouts_for(setting: Setting, *, symmetric: bool, attention: bool) -> tuple[str, ...]:
    """The layouts that can hold it, the usual one first."""
    if attention:
        return ("dense",)
    if setting.activation_bits == _NOT_QUANTIZED_BITS:
        return "compressed-tensors", "gptq", "awq", "dense"
    integers = setting.weight_bits == setting.activation_bits == 8 and symmetric
    return ("compressed-tensors", "dense") if integers else ("dense",)


class Rtn:
    """A parsed request; see `harness.methods.base.Compressor`."""

    def __init__(self, setting: Setting, options: RtnOptions) -> None:
        self._setting = setting
        self._weight_bits = setting.weight_bits or 0
        self._activation_bits = setting.activation_bits or 0
        self.options = options

    @property
    def checkpoint_format(self) -> CheckpointFormat:
        """How the weights will be laid out."""
        weights_alone = self._activation_bits == _NOT_QUANTIZED_BITS
        if self.options.layout == "compressed-tensors" and not weights_alone:
            return CheckpointFormat.INT_QUANTIZED
        return _FORMATS[str(self.options.layout)]

    def check(self, blocks: Sequence[Block]) -> None:
        if self._setting.group_size:
            refuse_indivisible(blocks, self._setting.group_size, f"a group size of {self._setting.group_size}")
        if self.options.layout == "gptq":
            refuse_broken_words("gptq", linears_of(blocks), self._weight_bits)
        if self.options.layout == "awq":
            refuse_uneven_rows("awq", linears_of(blocks))

    def _attention(self) -> dict[str, Any]:
        if self.options.attention == "none":
            return {}
        return {
            "attention_bits": self._activation_bits,
            "attention_rounding": AttentionRounding(self.options.attention),
        }

    def compress(self, context: CompressionContext) -> Outcome:
        symmetric = bool(self.options.symmetric)
        storage = TORCH_DTYPES[context.storage_dtype]
        grid = RoundingGrid(self._weight_bits, self._setting.group_size, symmetric, storage)
        quantization = Quantization(
            weight_bits=self._weight_bits,
            activation_bits=self._activation_bits,
            group_size=self._setting.group_size,
            symmetric=symmetric,
            activations_symmetric=symmetric or self._activation_bits == _NOT_QUANTIZED_BITS,
            **self._attention(),
            simulated=self.options.layout == "dense",
        )
        packed = self.checkpoint_format is not CheckpointFormat.DENSE
        summary = compress_blocks(context, _Work(grid, context, packed=packed))
        return finish(context, summary, checkpoint_format=self.checkpoint_format, quantization=quantization)


class _Work:
    """Rounding's part of `compress_blocks`."""

    def __init__(self, grid: RoundingGrid, context: CompressionContext, *, packed: bool) -> None:
        self._grid = grid
        self._context = context
        self._packed = packed

    def compress(self, block: Block) -> BlockResult:
        reports, codes = [], {}
        for linear in block.linears:
            with Stopwatch(self._context.device) as watch:
                quantized = quantize(linear.module.weight, self._grid)
                put_quantized(linear.module.weight, quantized, self._context)
            if self._packed:
                codes[linear.name] = quantized
            reports.append(LayerReport(name=linear.name, seconds=watch.seconds))
        round_parameters(block, self._context)
        return BlockResult(layers=tuple(reports), quantized=codes)

    def skip(self, block: Block, restore: Callable[[], None]) -> None:
        restore()
