"""llama.cpp's own rounding: every matrix of the decoder in one of ggml's types, as the pinned library writes it.

No text is looked at, and no importance matrix is used. Rows that no whole blocks of the type fill lie in the type that
llama.cpp takes in its place, matrix by matrix. Its mixes, which give some matrices more bits, are not made here.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.architectures.blocks import Block, NamedLinear, linears_of
from harness.contract import (
    CheckpointFormat,
    CompressParameters,
    Frozen,
    LayerReport,
    Quantization,
    Reason,
    Setting,
)
from harness.contract.ggml import BLOCK_SHAPES, BlockType, suffix_of
from harness.errors import Unsupported
from harness.methods.base import CompressionContext, Outcome
from harness.methods.skeleton.saving import Replacement, write_checkpoint
from harness.methods.skeleton.sequential import refuse_damaged
from harness.options import parse_options
from harness.quantization.ggml.blocks import BlockWeight
from harness.quantization.ggml.rounding import open_rounding, round_to, type_of_rows
from harness.quantization.layouts import quantization_config
from harness.telemetry import Stopwatch

_PREFIX = "gguf-"
_WHOLE_BITS = 16
_NAMED = 4


class GgufOptions(Frozen):
    """`embeddings`: the type of the input embedding and the output head; `kept` leaves them as all other methods do."""

    embeddings: Literal["kept", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0"] = "kept"


OPTIONS = {f"{_PREFIX}{one}": GgufOptions for one in BlockType}


def parse(parameters: CompressParameters) -> "Gguf":
    """Read the setting and the options of a request.

    Raises:
        Unsupported: the setting is not that of the method's type.
        BadRequest: an option is unknown or out of range.
    """
    block_type = BlockType(parameters.method.removeprefix(_PREFIX))
    shape, setting = BLOCK_SHAPES[block_type], parameters.setting
    own = f"W{shape.code_bits}A{_WHOLE_BITS}g{shape.group_size}"
    if (setting.weight_bits, setting.activation_bits, setting.group_size) != (
        shape.code_bits,
        _WHOLE_BITS,
        shape.group_size,
    ):
        raise Unsupported(
            Reason.SETTING, f"{parameters.method} has no {setting.name!r}", hint=f"its one setting is {own!r}"
        )
    return Gguf(
        parameters.method, block_type, setting, parse_options(GgufOptions, parameters.options, parameters.method)
    )


class Gguf:
    """A parsed request; see `harness.methods.base.Compressor`."""

    def __init__(self, name: str, block_type: BlockType, setting: Setting, options: GgufOptions) -> None:
        self._name = name
        self._type = block_type
        self._setting = setting
        self.options = options

    def check(self, blocks: Sequence[Block]) -> None:
        try:
            open_rounding()
        except Unsupported as absent:
            raise Unsupported(Reason.METHOD, absent.message, hint=absent.hint) from absent
        linears = linears_of(blocks)
        types = {linear.name: type_of_rows(self._type, linear.module.in_features) for linear in linears}
        if odd := [linear for linear in linears if types[linear.name] is None]:
            listed = ", ".join(f"{linear.name} ({linear.module.in_features})" for linear in odd[:_NAMED])
            raise Unsupported(
                Reason.SHAPE,
                f"llama.cpp would store {len(odd)} linear(s) as floats, whose inputs no blocks of"
                f" {BLOCK_SHAPES[self._type].values} or 32 weights fill: {listed}",
                hint="use a method that takes any size, such as rtn",
            )
        found = sorted({one for one in types.values() if one is not None})
        if self._type not in found:
            values = BLOCK_SHAPES[self._type].values
            raise Unsupported(
                Reason.SHAPE,
                f"no linear has a multiple of {values} inputs, so that llama.cpp would store all of them as"
                f" {' and '.join(found)} in place of {self._type}",
                hint=f"use {' or '.join(_PREFIX + one for one in found)}, which is what would come of it",
            )

    @torch.no_grad()
    def compress(self, context: CompressionContext) -> Outcome:
        shape = BLOCK_SHAPES[self._type]
        quantization = Quantization(
            weight_bits=shape.code_bits,
            activation_bits=_WHOLE_BITS,
            group_size=shape.group_size,
            symmetric=shape.symmetric,
        )
        done: dict[str, BlockWeight] = {}
        reports: list[LayerReport] = []
        context.reporter.progress(0, len(context.blocks), "layer")
        for block in context.blocks:
            refuse_damaged(block)
            for linear in block.linears:
                done[linear.name], report = _round(linear, self._type)
                reports.append(report)
                linear.module.weight.copy_(done[linear.name].dequantize(torch.float32))
            context.reporter.progress(block.index + 1, len(context.blocks), "layer")
        notes = _stand_ins(self._type, done)
        embeddings = _embeddings(context, self.options)
        notes += tuple(f"{name} lies in {one.block_type}" for name, one in embeddings.items())
        return Outcome(
            write=partial(_write, context, done | embeddings, quantization),
            layers=tuple(reports),
            notes=notes,
            format=CheckpointFormat.GGUF,
            quantization=quantization,
        )


def _round(linear: NamedLinear, asked: BlockType) -> tuple[BlockWeight, LayerReport]:
    weight: Tensor = linear.module.weight
    block_type = type_of_rows(asked, linear.module.in_features)
    assert block_type is not None  # noqa: S101  `check` refuses it
    with Stopwatch(torch.device("cpu")) as watch:
        rounded = round_to(weight, block_type)
    return rounded, LayerReport(name=linear.name, seconds=watch.seconds)


def _stand_ins(asked: BlockType, done: Mapping[str, BlockWeight]) -> tuple[str, ...]:
    """A note on the weights that are of another type than was asked for."""
    weights: Counter[BlockType] = Counter()
    for one in done.values():
        rows, inputs = one.shape
        weights[one.block_type] += rows * inputs
    total, stored = sum(weights.values()), 8 * sum(one.blocks.numel() for one in done.values())
    mean = f"{stored / total:.3g} bits a weight of the decoder, scales included"
    others = ", ".join(f"{weights[one] / total:.0%} in {one}" for one in sorted(weights) if one is not asked)
    if not others:
        return (f"all in {asked}: {mean}",)
    values = BLOCK_SHAPES[asked].values
    return (
        f"{weights[asked] / total:.0%} of the decoder's weights lie in {asked}, and {others}, as llama.cpp stores rows"
        f" that are no multiple of {values}: {mean}",
    )


def _embeddings(context: CompressionContext, options: GgufOptions) -> dict[str, BlockWeight]:
    """Input embedding and output head in blocks, by module; none where they are kept. A shared one is done once.

    Raises:
        Unsupported: no blocks fill their rows.
    """
    if options.embeddings == "kept":
        return {}
    model: Any = context.model
    found: dict[str, BlockWeight] = {}
    parts: dict[int, tuple[str, nn.Module]] = {}
    for name, module in model.named_modules():
        if module in (model.get_input_embeddings(), model.get_output_embeddings()):
            parts.setdefault(id(module.weight), (name, module))
    for name, module in parts.values():
        weight = module.weight
        assert isinstance(weight, Tensor)  # noqa: S101  narrows the type
        asked = BlockType(options.embeddings)
        block_type = type_of_rows(asked, weight.shape[1])
        if block_type is None:
            raise Unsupported(
                Reason.SHAPE,
                f"{name} has rows of {weight.shape[1]} weights, which no blocks of {asked} fill",
                hint="leave `embeddings` at `kept`",
            )
        found[name] = round_to(weight, block_type)
    return found


def _write(
    context: CompressionContext, done: Mapping[str, BlockWeight], quantization: Quantization, staging: Path
) -> None:
    replaced: dict[str, Replacement] = {f"{name}.weight": _stored(name, weight) for name, weight in done.items()}
    dense = [name for name, module in context.model.named_modules() if isinstance(module, nn.Linear)]
    ignored = [name for name in dense if name not in done]
    config = {"quantization_config": quantization_config(CheckpointFormat.GGUF, quantization, ignored=ignored)}
    write_checkpoint(context.source, staging, replaced, context.model.base_model_prefix, config=config)


def _stored(name: str, weight: BlockWeight) -> Callable[[], Mapping[str, Tensor]]:
    return lambda: {f"{name}.{suffix_of(weight.block_type)}": weight.blocks}
