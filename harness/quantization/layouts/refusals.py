"""What several layouts cannot hold, in one form of words."""

import math
from collections.abc import Iterable

from harness.architectures.blocks import NamedLinear
from harness.contract import Quantization, Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.quantization.bits import WORD_BITS
from harness.quantization.weight import QuantizedWeight

_ROWS = 8
"""Codes of neighbouring rows that the AWQ layout packs into one word."""


def refuse_bits(layout: str, bits: int, held: tuple[int, ...]) -> None:
    """Raise Unsupported unless `bits` is among `held`."""
    if bits not in held:
        listed = ", ".join(map(str, held))
        raise Unsupported(
            Reason.SETTING,
            f"{layout} does not hold weights of {bits} bits",
            hint=f"it holds {listed} bits; other bits can be stored dequantized (dense, simulated)",
        )


def refuse_size(layout: str, what: str, size: int, divisor: int) -> None:
    """Raise Unsupported unless `divisor` divides `size`."""
    if size % divisor:
        raise Unsupported(
            Reason.SHAPE,
            f"{layout} needs {what} sizes that are multiples of {divisor}, and this linear's is {size}",
            hint="use compressed-tensors/pack-quantized, which holds any size, or a model with other sizes",
        )


def refuse_broken_words(layout: str, linears: Iterable[NamedLinear], bits: int) -> None:
    """Raise Unsupported unless codes of `bits`, packed along inputs and along outputs, fill whole 32-bit words.

    For whoever would compress: the same refusal as of the packing itself, before any work, with the linear's name.
    """
    codes = WORD_BITS // math.gcd(WORD_BITS, bits)
    for linear in linears:
        for side, size in (("inputs", linear.module.in_features), ("outputs", linear.module.out_features)):
            if size % codes:
                raise Unsupported(
                    Reason.SHAPE,
                    f"the layout {layout} holds {bits} bits in multiples of {codes}; {linear.name} has {size} {side}",
                    hint="use layout=compressed-tensors, which holds any size",
                )


def refuse_uneven_rows(layout: str, linears: Iterable[NamedLinear]) -> None:
    """Raise Unsupported unless eight divides every output size. For whoever would compress: before any work."""
    uneven = [linear for linear in linears if linear.module.out_features % _ROWS]
    if uneven:
        named = ", ".join(f"{linear.name} ({linear.module.out_features})" for linear in uneven[:4])
        raise Unsupported(
            Reason.SHAPE,
            f"the layout {layout} needs output sizes that are multiples of {_ROWS}; {len(uneven)} have others: {named}",
            hint="use layout 'compressed-tensors', which holds any size",
        )


def refuse_uneven_groups(layout: str, weight: QuantizedWeight) -> None:
    """Raise Unsupported unless all groups have equally many inputs."""
    inputs, groups = weight.codes.shape[1], weight.scale.shape[1]
    if inputs % groups:
        raise Unsupported(
            Reason.SHAPE,
            f"{layout} needs groups of one size, and {groups} groups do not divide {inputs} inputs",
            hint="use a group size that divides every input size, or whole rows",
        )


def refuse_act_order(layout: str) -> Unsupported:
    """The error for weights whose inputs are not grouped in their order."""
    return Unsupported(
        Reason.SETTING,
        f"{layout} has no place for groups that follow the order of the activations",
        hint="use static groups, or the gptq format",
    )


def refuse_quantized_activations(layout: str, quantization: Quantization) -> None:
    """Raise Unsupported where the activations are quantized: for layouts that describe weights only."""
    if quantization.activation_bits < 16:
        raise Unsupported(
            Reason.SETTING,
            f"{layout} describes weights only, not activations of {quantization.activation_bits} bits",
            hint="use a compressed-tensors format, or store dequantized weights (dense, simulated)",
        )


def contradiction(layout: str, what: str) -> BadCheckpoint:
    """The error for tensors of one linear that do not fit together."""
    return BadCheckpoint(f"the {layout} tensors of a linear do not fit together: {what}", hint="compress it again")
