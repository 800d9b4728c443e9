"""llm-compressor's SparseGPT, Wanda, GPTQ, AWQ and SmoothQuant, on the same calibration tokens as this project's own.

The adapter writes the recipe and hands over model, tokens and folder; all else is the library's code with the library's
defaults. Covered: ratios and n:m patterns, integer weights of 4 and 8 bits, W8A8. Not covered: its other methods and
schemes, going on after an interruption, several GPUs, a report for each layer (the library gives none).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from harness.architectures.blocks import Block, NamedLinear, linears_of
from harness.contract import CheckpointFormat, CompressParameters, Frozen, Quantization, Reason, Setting, Sparsity
from harness.errors import BadRequest, Unsupported
from harness.methods.base import CompressionContext, Outcome, refuse_indivisible
from harness.methods.peers import oneshot
from harness.methods.peers.common import bits_of, require
from harness.methods.skeleton.saving import write_checkpoint
from harness.models.loading import TORCH_DTYPES
from harness.options import parse_options

_WEIGHT_ONLY = ((4, 16), (8, 16))
_W8A8 = ((8, 8),)
_WITHOUT_MAPPINGS = frozenset({"GlmForCausalLM", "Glm4ForCausalLM", "OPTForCausalLM"})
"""For these the library falls back on Llama's names of norms and linears, which they do not have."""


class Options(Frozen):
    """`batch_size` counts sequences run at once."""

    batch_size: PositiveInt = 1


class SparseGptOptions(Options):
    """`dampening_frac` is the share of the Hessian's mean diagonal that is added to it."""

    block_size: PositiveInt = 128
    dampening_frac: float = Field(default=0.01, ge=0, le=1)


class GptqOptions(SparseGptOptions):
    """`actorder`: `static` takes the columns by their activations, with groups of neighbours; `none` in their order."""

    actorder: Literal["static", "none"] = "static"
    symmetric: bool = True


class AwqOptions(Options):
    """`duo_scaling`: scales from activations and weights, from activations alone, or, with `both`, half of each."""

    duo_scaling: bool | Literal["both"] = True
    n_grid: int = Field(default=20, ge=4)
    symmetric: bool = False


class SmoothQuantOptions(Options):
    """`smoothing_strength` is the paper's alpha."""

    smoothing_strength: float = Field(default=0.5, ge=0, le=1)


OPTIONS = {
    "llmcompressor-sparsegpt": SparseGptOptions,
    "llmcompressor-wanda": Options,
    "llmcompressor-gptq": GptqOptions,
    "llmcompressor-awq": AwqOptions,
    "llmcompressor-smoothquant": SmoothQuantOptions,
}


def parse(parameters: CompressParameters) -> "LlmCompressor":
    """Read the setting and the options of a request whose method is one of `METHODS`.

    Raises:
        Unsupported: there is no such method, or it does not have this setting.
        BadRequest: an option is unknown or out of range, or the blocks would cut through a pattern.
    """
    if parameters.method not in METHODS:
        raise Unsupported(
            Reason.METHOD,
            f"llmcompressor offers no method {parameters.method!r} here",
            hint=f"methods: {', '.join(METHODS)}",
        )
    return METHODS[parameters.method](parameters)


@dataclass(frozen=True)
class LlmCompressor:
    """A parsed request; see `harness.methods.base.Compressor`.

    `recipe` makes the library's modifiers, given patterns of what to leave alone. `symmetric` is None for a pruning.
    `maps_layers`: the recipe needs to know which norm feeds which linears.
    """

    method: str
    setting: Setting
    options: Options
    recipe: Callable[[list[str]], list[Any]]
    symmetric: bool | None = None
    maps_layers: bool = False

    def check(self, blocks: Sequence[Block]) -> None:
        divisor = self.setting.zeros_of[1] if self.setting.zeros_of else self.setting.group_size
        if divisor:
            refuse_indivisible(blocks, divisor, self.setting.name)
        require("llmcompressor")
        self.recipe([])  # imports the library now: its seconds are not the compression's

    def compress(self, context: CompressionContext) -> Outcome:
        versions = f"llmcompressor {require('llmcompressor')}, compressed-tensors {require('compressed-tensors')}"
        architecture = type(context.model).__name__
        if self.maps_layers and architecture in _WITHOUT_MAPPINGS:
            raise Unsupported(
                Reason.ARCHITECTURE,
                f"llmcompressor does not know which norms feed which linears in {architecture}, as {self.method} needs",
                hint="use this project's own method of the same name",
            )
        warned = oneshot.run(context, self.recipe(_outside_the_blocks(context)), self.options.batch_size)
        notes = (versions, *warned, *_rounding(context))
        return self._pruned(context, notes) if self.symmetric is None else self._quantized(context, notes)

    def _pruned(self, context: CompressionContext, notes: tuple[str, ...]) -> Outcome:
        """The library stores zeros in a dense layout too, so the parent's files keep their names, shards and ties."""
        target = self.setting.sparsity
        assert target is not None  # noqa: S101  parsing refused every other setting
        stored = {f"{one.name}.weight": partial(_stored_weight, context, one) for one in linears_of(context.blocks)}
        weights = [weight for make in stored.values() for weight in make().values()]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        return Outcome(
            write=lambda staging: write_checkpoint(context.source, staging, stored, context.model.base_model_prefix),
            layers=(),
            notes=notes,
            sparsity=Sparsity(
                pattern=self.setting.name if self.setting.zeros_of else "unstructured",
                target=target,
                measured=zeros / sum(weight.numel() for weight in weights),
            ),
        )

    def _quantized(self, context: CompressionContext, notes: tuple[str, ...]) -> Outcome:
        weight_bits, activation_bits = self.setting.weight_bits, self.setting.activation_bits
        assert weight_bits and activation_bits and self.symmetric is not None  # noqa: S101  parsing saw to it
        return Outcome(
            write=partial(oneshot.save, context),
            layers=(),
            notes=notes,
            format=CheckpointFormat.PACK_QUANTIZED if activation_bits == 16 else CheckpointFormat.INT_QUANTIZED,
            quantization=Quantization(
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                group_size=self.setting.group_size,
                symmetric=self.symmetric,
            ),
        )


def _outside_the_blocks(context: CompressionContext) -> list[str]:
    """Patterns of the linears that no method here touches: the head, and OPT's projections before and after the blocks.

    The library matches a pattern at the start of a name, and some of its modifiers append a dot to the name.
    """
    inside = {linear.name for linear in linears_of(context.blocks)}
    linears = [name for name, module in context.model.named_modules() if isinstance(module, nn.Linear)]
    return [f"re:{re.escape(name)}" for name in linears if name not in inside]


def _stored_weight(context: CompressionContext, linear: NamedLinear) -> dict[str, Tensor]:
    weight = linear.module.weight.detach().to("cpu", TORCH_DTYPES[context.storage_dtype])
    return {f"{linear.name}.weight": weight}


def _rounding(context: CompressionContext) -> tuple[str, ...]:
    computed = next(context.model.parameters()).dtype
    if computed == TORCH_DTYPES[context.storage_dtype]:
        return ()
    return (
        f"llmcompressor computed in {str(computed).removeprefix('torch.')}; what is stored was rounded to "
        f"{context.storage_dtype.value} at the end, not before the next block",
    )


def _sparsegpt(parameters: CompressParameters) -> LlmCompressor:
    setting = _pruning(parameters)
    options = parse_options(SparseGptOptions, parameters.options, parameters.method)
    if setting.zeros_of is not None and options.block_size % setting.zeros_of[1]:
        raise BadRequest(
            f"block_size {options.block_size} is not a multiple of {setting.zeros_of[1]}, the length of {setting.name}",
            hint="use a block_size that the pattern divides, such as 128",
        )

    def recipe(ignored: list[str]) -> list[Any]:
        from llmcompressor.modifiers.pruning import SparseGPTModifier

        own = {"block_size": options.block_size, "dampening_frac": options.dampening_frac}
        return [SparseGPTModifier(**_zeros(setting, ignored), **own)]

    return LlmCompressor(parameters.method, setting, options, recipe)


def _wanda(parameters: CompressParameters) -> LlmCompressor:
    setting = _pruning(parameters)

    def recipe(ignored: list[str]) -> list[Any]:
        from llmcompressor.modifiers.pruning import WandaPruningModifier

        return [WandaPruningModifier(**_zeros(setting, ignored))]

    return LlmCompressor(
        parameters.method, setting, parse_options(Options, parameters.options, parameters.method), recipe
    )


def _gptq(parameters: CompressParameters) -> LlmCompressor:
    setting = bits_of(parameters, _WEIGHT_ONLY + _W8A8)
    options = parse_options(GptqOptions, parameters.options, parameters.method)

    def recipe(ignored: list[str]) -> list[Any]:
        from llmcompressor.modifiers.gptq import GPTQModifier

        own = {"block_size": options.block_size, "dampening_frac": options.dampening_frac}
        order = None if options.actorder == "none" else options.actorder
        return [GPTQModifier(**_scheme(setting, ignored, symmetric=options.symmetric), **own, actorder=order)]

    return LlmCompressor(parameters.method, setting, options, recipe, symmetric=options.symmetric)


def _awq(parameters: CompressParameters) -> LlmCompressor:
    setting = bits_of(parameters, _WEIGHT_ONLY)
    options = parse_options(AwqOptions, parameters.options, parameters.method)

    def recipe(ignored: list[str]) -> list[Any]:
        from llmcompressor.modifiers.quantization import QuantizationModifier
        from llmcompressor.modifiers.transform.awq import AWQModifier

        search = AWQModifier(duo_scaling=options.duo_scaling, n_grid=options.n_grid)
        return [search, QuantizationModifier(**_scheme(setting, ignored, symmetric=options.symmetric))]

    return LlmCompressor(parameters.method, setting, options, recipe, symmetric=options.symmetric, maps_layers=True)


def _smoothquant(parameters: CompressParameters) -> LlmCompressor:
    setting = bits_of(parameters, _W8A8)
    options = parse_options(SmoothQuantOptions, parameters.options, parameters.method)

    def recipe(ignored: list[str]) -> list[Any]:
        from llmcompressor.modifiers.quantization import QuantizationModifier
        from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

        smoothing = SmoothQuantModifier(smoothing_strength=options.smoothing_strength)
        return [smoothing, QuantizationModifier(**_scheme(setting, ignored, symmetric=True))]

    return LlmCompressor(parameters.method, setting, options, recipe, symmetric=True, maps_layers=True)


def _pruning(parameters: CompressParameters) -> Setting:
    if parameters.setting.sparsity is None:
        raise Unsupported(
            Reason.SETTING,
            f"{parameters.method} prunes, so it has no setting {parameters.setting.name!r}",
            hint="use a ratio such as '50%', or a pattern such as '2:4'",
        )
    return parameters.setting


def _zeros(setting: Setting, ignored: list[str]) -> dict[str, Any]:
    """A modifier's keywords for a pruning; `0:0` is the library's word for no pattern."""
    zeros, length = setting.zeros_of or (0, 0)
    return {"sparsity": setting.sparsity, "mask_structure": f"{zeros}:{length}", "ignore": ignored}


def _scheme(setting: Setting, ignored: list[str], *, symmetric: bool) -> dict[str, Any]:
    """A modifier's keywords for a quantization of every other linear, with the library's default observers."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    grain: dict[str, Any] = {"strategy": "channel"}
    if setting.group_size:
        grain = {"strategy": "group", "group_size": setting.group_size}
    weights = QuantizationArgs(num_bits=setting.weight_bits, symmetric=symmetric, **grain)
    activations = None
    if setting.activation_bits == 8:
        activations = QuantizationArgs(num_bits=8, symmetric=True, strategy="token", dynamic=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=activations)
    return {"config_groups": {"group_0": scheme}, "ignore": ignored}


METHODS: dict[str, Callable[[CompressParameters], LlmCompressor]] = {
    "llmcompressor-sparsegpt": _sparsegpt,
    "llmcompressor-wanda": _wanda,
    "llmcompressor-gptq": _gptq,
    "llmcompressor-awq": _awq,
    "llmcompressor-smoothquant": _smoothquant,
}
