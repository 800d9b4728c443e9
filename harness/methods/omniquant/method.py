"""OmniQuant (Shao et al., ICLR 2024, arXiv:2308.13137): learns, block by block, how to clip and transform weights.

Per row or group two bounds of the rounding grid (`omni_clipping.py`), and per channel scales and shifts that move what
is hard to quantize to where it is not (`omni_transform.py`). The weights themselves are never trained.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt

from harness.architectures.blocks import Block, linears_of
from harness.contract import (
    AttentionRounding,
    CheckpointFormat,
    CompressParameters,
    Frozen,
    Quantization,
    Reason,
    Setting,
)
from harness.errors import BadRequest, Unsupported
from harness.methods.base import CompressionContext, Outcome, refuse_indivisible
from harness.methods.numerics.rounding import RoundingGrid
from harness.methods.numerics.scaling import smoothable_pairs
from harness.methods.omniquant.blocks import OmniQuantWork, Recipe
from harness.methods.omniquant.published import attention_rounding, published
from harness.methods.omniquant.training import Schedule
from harness.methods.omniquant.transform import plan_transformation
from harness.methods.skeleton.saving import finish
from harness.methods.skeleton.sequential import compress_blocks
from harness.models.loading import TORCH_DTYPES
from harness.options import parse_options
from harness.quantization.layouts.refusals import refuse_bits, refuse_broken_words

_WITH_ACTIVATIONS = ((4, 4), (6, 6), (8, 8))
_WEIGHT_BITS = range(2, 9)
_NOT_QUANTIZED_BITS = 16
_GPTQ_BITS = (2, 3, 4, 8)


class OmniQuantOptions(Frozen):
    """None is what the authors' scripts have for the setting and the model; compressing fills it in.

    `lwc` and `let` switch learnable clipping and the learnable transformation; `alpha` is what the latter starts from.
    `batch_size` counts the calibration sequences of one step of training.
    """

    epochs: PositiveInt | None = None
    lwc: bool = True
    let: bool | None = None
    lwc_lr: float = Field(default=1e-2, gt=0, le=1)
    let_lr: float | None = Field(default=None, gt=0, le=1)
    alpha: float | None = Field(default=None, ge=0, le=1)
    aug_loss: bool | None = None
    qk_scaling: Literal["tied", "off"] = "tied"
    symmetric: bool | None = None
    precision: Literal["auto", "float32", "native"] = "auto"
    layout: Literal["compressed-tensors", "gptq", "dense"] | None = None
    batch_size: PositiveInt = 1


OPTIONS = {"omniquant": OmniQuantOptions}


def parse(parameters: CompressParameters) -> "OmniQuant":
    """Read the setting and the options of a request.

    Raises:
        Unsupported: the setting is not offered, or the layout cannot hold it.
        BadRequest: an option is unknown or out of range.
    """
    setting = parameters.setting
    weight_bits, activation_bits = setting.weight_bits or 0, setting.activation_bits or 0
    weight_only = activation_bits == _NOT_QUANTIZED_BITS and weight_bits in _WEIGHT_BITS
    if not weight_only and ((weight_bits, activation_bits) not in _WITH_ACTIVATIONS or setting.group_size):
        raise Unsupported(
            Reason.SETTING,
            f"omniquant has no setting {setting.name!r}",
            hint="use W2A16 to W8A16, with or without a group size as in 'W4A16g128', or W4A4, W6A6 or W8A8",
        )
    options = parse_options(OmniQuantOptions, parameters.options, "omniquant")
    symmetric = options.symmetric if options.symmetric is not None else activation_bits == 8
    held = _layouts_for(setting)
    layout = options.layout or held[0]
    if layout not in held or (layout != "dense" and activation_bits == 8 and not symmetric):
        raise Unsupported(
            Reason.SETTING,
            f"layout {layout!r} has no place for {setting.name} {'symmetric' if symmetric else 'asymmetric'}",
            hint="use layout 'dense', which stores the rounded values (simulated)",
        )
    if layout == "gptq":
        refuse_bits("gptq", weight_bits, _GPTQ_BITS)
    return OmniQuant(setting, options.model_copy(update={"symmetric": symmetric, "layout": layout}))


def _layouts_for(setting: Setting) -> tuple[str, ...]:
    """The layouts that can hold a setting, the usual one first."""
    if setting.activation_bits == _NOT_QUANTIZED_BITS:
        return "compressed-tensors", "gptq", "dense"
    return ("compressed-tensors", "dense") if setting.activation_bits == 8 else ("dense",)


class OmniQuant:
    """A parsed request; see `harness.methods.base.Compressor`. Compressing fills in the options that were left open."""

    def __init__(self, setting: Setting, options: OmniQuantOptions) -> None:
        self._setting = setting
        self._bits = setting.weight_bits or 0
        self.options = options

    def check(self, blocks: Sequence[Block]) -> None:
        if self._setting.group_size:
            refuse_indivisible(blocks, self._setting.group_size, f"a group size of {self._setting.group_size}")
        if self.options.layout == "gptq":
            refuse_broken_words("gptq", linears_of(blocks), self._bits)
        if self.options.let:
            for block in blocks:
                smoothable_pairs(block)

    def compress(self, context: CompressionContext) -> Outcome:
        recipe, notes = self._decide(context)
        for note in notes:
            context.reporter.log(note)
        quantization = self._quantization(attention_rounding(type(context.model).__name__))
        storage = TORCH_DTYPES[context.storage_dtype]
        grid = RoundingGrid(self._bits, self._setting.group_size, quantization.symmetric, storage)
        work = OmniQuantWork(context, recipe, grid, quantization)
        return finish(
            context,
            compress_blocks(context, work),
            checkpoint_format=self.checkpoint_format,
            quantization=quantization,
            notes=notes,
        )

    def _decide(self, context: CompressionContext) -> tuple[Recipe, tuple[str, ...]]:
        """Fill in what the request left open.

        Raises:
            BadRequest: nothing is left to be learned.
        """
        options, first = self.options, context.blocks[0]
        authors = published(self._setting, type(context.model).__name__, context.model.config)
        notes = [f"options not given are the authors' for {authors.family.value}, chosen {authors.reason}"]
        let = authors.let if options.let is None else options.let
        if let and not first.norms_come_first:
            let = False
            notes.append(
                "no transformation is learned: the blocks' norms come last, and no scale can move through them"
            )
        if not let and not options.lwc:
            raise BadRequest(
                "with lwc and let both off there is nothing to learn", hint="switch one of them on, or use gptq or awq"
            )
        shift = (self._setting.activation_bits or 0) < _NOT_QUANTIZED_BITS and not first.family.gated
        if let:
            notes += plan_transformation(first, query_key=options.qk_scaling == "tied", shift=shift).notes
        full = options.precision == "float32" or (options.precision == "auto" and authors.full_precision)
        self.options = options.model_copy(
            update={
                "epochs": options.epochs or authors.epochs,
                "let": let,
                "let_lr": options.let_lr or authors.let_lr,
                "alpha": authors.alpha if options.alpha is None else options.alpha,
                "aug_loss": authors.aug_loss if options.aug_loss is None else options.aug_loss,
                "precision": "float32" if full else "native",
            }
        )
        dtype = torch.float32 if full else first.linears[0].module.weight.dtype
        return _recipe(self.options, dtype, shift=shift), tuple(notes)

    def _quantization(self, rounding: AttentionRounding) -> Quantization:
        activation_bits = self._setting.activation_bits or _NOT_QUANTIZED_BITS
        symmetric = bool(self.options.symmetric)
        integers = activation_bits == 8 and symmetric
        attention = not integers and activation_bits != _NOT_QUANTIZED_BITS
        return Quantization(
            weight_bits=self._bits,
            activation_bits=activation_bits,
            group_size=self._setting.group_size,
            symmetric=symmetric,
            activations_symmetric=symmetric or activation_bits == _NOT_QUANTIZED_BITS,
            attention_bits=activation_bits if attention else None,
            attention_rounding=rounding if attention else AttentionRounding.HEADS,
            simulated=self.options.layout == "dense",
        )

    @property
    def checkpoint_format(self) -> CheckpointFormat:
        """How the weights will be laid out."""
        if self.options.layout == "dense":
            return CheckpointFormat.DENSE
        if self.options.layout == "gptq":
            return CheckpointFormat.GPTQ
        weight_only = self._setting.activation_bits == _NOT_QUANTIZED_BITS
        return CheckpointFormat.PACK_QUANTIZED if weight_only else CheckpointFormat.INT_QUANTIZED


def _recipe(options: OmniQuantOptions, dtype: torch.dtype, *, shift: bool) -> Recipe:
    assert options.epochs and options.let_lr and options.alpha is not None  # noqa: S101  filled in just before
    return Recipe(
        schedule=Schedule(options.epochs, options.lwc_lr, options.let_lr, dtype),
        lwc=options.lwc,
        let=bool(options.let),
        alpha=options.alpha,
        aug_loss=bool(options.aug_loss),
        query_key=options.qk_scaling == "tied",
        shift=shift,
        batch_size=options.batch_size,
        packed=options.layout != "dense",
    )
