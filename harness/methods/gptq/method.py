"""GPTQ (Frantar et al., 2023, arXiv:2210.17323, Algorithm 1): weights of few bits, with compensation of the errors.

Covered: per row and per group grids, symmetric and asymmetric; the order by activations; static groups; the search for
shrunken grids of the authors' code. Not covered: quantized activations, and kernels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt

from harness.architectures.blocks import Block, LinearGroup, linears_of
from harness.contract import CheckpointFormat, CompressParameters, Frozen, LayerReport, Quantization, Reason, Setting
from harness.errors import Unsupported
from harness.methods.base import CompressionContext, Outcome, refuse_indivisible
from harness.methods.gptq.columns import Quantizer
from harness.methods.gptq.grid import GridRule
from harness.methods.numerics.hessian import Hessian, damping_notes, factor_inverse
from harness.methods.skeleton.saving import finish
from harness.methods.skeleton.sequential import GroupResult, Sequential, compress_blocks, put_quantized
from harness.models.loading import TORCH_DTYPES
from harness.options import parse_options
from harness.quantization.layouts.refusals import refuse_broken_words
from harness.telemetry import Stopwatch

_BITS = (2, 3, 4, 8)
_LIKE_LLAMA = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_FORMATS = {
    "compressed-tensors": CheckpointFormat.PACK_QUANTIZED,
    "gptq": CheckpointFormat.GPTQ,
    "dense": CheckpointFormat.DENSE,
}


class GptqOptions(Frozen):
    """`percdamp` is the share of the Hessian's mean diagonal that is added to it; `batch_size` counts sequences.

    None is what the authors recommend for the model, and is filled in by compressing. `act_order` and `static_groups`
    are one choice: where either is named, the other is false unless it is named, too.
    """

    symmetric: bool = False
    act_order: bool | None = None
    static_groups: bool | None = None
    true_sequential: bool | None = None
    mse: bool = False
    percdamp: float = Field(default=0.01, ge=0, le=1)
    blocksize: PositiveInt = 128
    layout: Literal["compressed-tensors", "gptq", "dense"] = "compressed-tensors"
    batch_size: PositiveInt = 4


OPTIONS = {"gptq": GptqOptions}


def parse(parameters: CompressParameters) -> "Gptq":
    """Read the setting and the options of a request.

    Raises:
        Unsupported: the setting is not a quantization of weights alone to 2, 3, 4 or 8 bits, or the layout has no
            place for the order of the groups.
        BadRequest: an option is unknown or out of range.
    """
    setting = parameters.setting
    if setting.weight_bits not in _BITS or setting.activation_bits != 16:
        raise Unsupported(
            Reason.SETTING,
            f"gptq quantizes weights alone, to 2, 3, 4 or 8 bits, so it has no setting {setting.name!r}",
            hint="use a setting such as 'W4A16', or 'W4A16g128' for groups of 128 columns",
        )
    options = parse_options(GptqOptions, parameters.options, "gptq")
    if _groups_follow_activations(setting, options) and options.layout == "compressed-tensors":
        raise Unsupported(
            Reason.SETTING,
            "compressed-tensors has no place for groups that follow the order of the activations",
            hint="add static_groups=true to act_order=true, or choose layout=gptq",
        )
    return Gptq(setting, options)


def _groups_follow_activations(setting: Setting, options: GptqOptions) -> bool:
    return setting.group_size > 0 and bool(options.act_order) and not options.static_groups


def recommended(architecture: str) -> tuple[bool, str]:
    """Whether the authors recommend order, static groups and true sequence for a model, and the reason in words.

    Their README has them for LLaMA; models that are built like it are treated as it is.
    """
    if architecture in _LIKE_LLAMA:
        return True, f"the authors' README for LLaMA, which {architecture} is built like"
    return False, f"the authors' program, whose README says nothing else for {architecture}"


class Gptq:
    """A parsed request; see `harness.methods.base.Compressor`. Compressing fills in the options that were left open."""

    def __init__(self, setting: Setting, options: GptqOptions) -> None:
        assert setting.weight_bits is not None  # noqa: S101  parse has refused it
        self._setting = setting
        self._bits = setting.weight_bits
        self.options = options

    @property
    def checkpoint_format(self) -> CheckpointFormat:
        return _FORMATS[self.options.layout]

    def check(self, blocks: Sequence[Block]) -> None:
        if self._setting.group_size:
            refuse_indivisible(blocks, self._setting.group_size, self._setting.name)
        if self.options.layout == "gptq":
            refuse_broken_words("gptq", linears_of(blocks), self._bits)

    def _decide(self, architecture: str) -> tuple[str, ...]:
        """Fill in what the request left open, and say so."""
        options = self.options
        whole, why = recommended(architecture)
        chosen = {}
        if options.act_order is None and options.static_groups is None:
            chosen = {"act_order": whole, "static_groups": whole}
        if options.true_sequential is None:
            chosen["true_sequential"] = whole
        named = {"act_order": bool(options.act_order), "static_groups": bool(options.static_groups)}
        self.options = options.model_copy(update=named | chosen)
        values = ", ".join(f"{name} {str(value).lower()}" for name, value in chosen.items())
        return (f"{values}: {why}",) if chosen else ()

    def compress(self, context: CompressionContext) -> Outcome:
        notes = self._decide(type(context.model).__name__)
        rule = GridRule(
            bits=self._bits,
            symmetric=self.options.symmetric,
            search=self.options.mse,
            scale_dtype=TORCH_DTYPES[context.storage_dtype],
        )
        quantizer = Quantizer(
            rule,
            self._setting.group_size,
            static_groups=bool(self.options.static_groups),
            blocksize=self.options.blocksize,
            log=context.reporter.log,
        )
        skeleton = Sequential(
            context,
            _Work(quantizer, self.options, context),
            batch_size=self.options.batch_size,
            true_sequential=bool(self.options.true_sequential),
        )
        quantization = Quantization(
            weight_bits=self._bits,
            activation_bits=16,
            group_size=self._setting.group_size,
            symmetric=self.options.symmetric,
            simulated=self.options.layout == "dense",
        )
        summary = compress_blocks(context, skeleton)
        return finish(
            context,
            summary,
            checkpoint_format=self.checkpoint_format,
            quantization=quantization,
            act_order=_groups_follow_activations(self._setting, self.options),
            notes=notes,
        )


class _Work:
    """GPTQ's part of the block-by-block skeleton."""

    def __init__(self, quantizer: Quantizer, options: GptqOptions, context: CompressionContext) -> None:
        self._quantizer = quantizer
        self._options = options
        self._context = context

    def observer(self, group: LinearGroup) -> Hessian:
        return Hessian(group, self._context.device)

    def compress(self, group: LinearGroup, observed: Hessian) -> GroupResult:
        weights = [linear.module.weight for linear in group.linears]
        with Stopwatch(self._context.device) as watch:
            hessian = observed.matrix
            order = None
            if self._options.act_order:
                order = hessian.diagonal().argsort(descending=True, stable=True)
                hessian = hessian[order][:, order]
            factor = factor_inverse(group, hessian, self._options.percdamp)
            results = self._quantizer.quantize(weights, factor, order)
            for weight, result in zip(weights, results, strict=True):
                put_quantized(weight, result.weight, self._context)
            errors = torch.stack([result.error for result in results]).tolist()
        rows = sum(weight.shape[0] for weight in weights)
        reports = tuple(
            LayerReport(name=linear.name, error=error, seconds=watch.seconds * weight.shape[0] / rows)
            for linear, weight, error in zip(group.linears, weights, errors, strict=True)
        )
        quantized = {linear.name: result.weight for linear, result in zip(group.linears, results, strict=True)}
        return GroupResult(
            layers=reports,
            notes=damping_notes(group, factor, self._options.percdamp),
            quantized=quantized if self._options.layout != "dense" else {},
        )
