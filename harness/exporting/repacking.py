"""From one packed layout to another: each linear decoded and encoded again, bit for bit in codes, scales and zeros."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from harness.contract import CheckpointFormat, Exported, Quantization
from harness.errors import BadCheckpoint, Unsupported
from harness.exporting.conversion import Conversion, Replacement, named, nothing, refuse_source
from harness.exporting.source import Source
from harness.quantization import layouts
from harness.quantization.layouts.refusals import refuse_act_order

REPACKED = (CheckpointFormat.PACK_QUANTIZED, CheckpointFormat.GPTQ, CheckpointFormat.AWQ, CheckpointFormat.MODELOPT_AWQ)


def repack(source: Source, target: CheckpointFormat) -> Conversion:
    """The conversion of a checkpoint of quantized weights to another layout of quantized weights.

    Raises:
        Unsupported: the checkpoint is no such one, or the target has no place for how it is quantized.
    """
    quantization = _quantization(source, target)
    _refuse_act_order(source, target)
    replaced: dict[str, Replacement] = {}
    for linear, parts in source.packed_linears.items():
        first, *others = parts.values()
        replaced[first] = partial(_encode, source, target, linear, symmetric=quantization.symmetric)
        replaced |= dict.fromkeys(others, nothing)
    ignored = source.dense_linears(frozenset(source.packed_linears))
    scheme = layouts.quantization_config(target, quantization, ignored=ignored)
    exported = Exported(source=source.descriptor.digest, source_format=source.format, exact=True)
    return Conversion(
        replaced=replaced,
        config={**source.config, "quantization_config": scheme},
        descriptor=source.descriptor.model_copy(update={"format": target, "exported": exported}),
        linears=len(source.packed_linears),
    )


def _quantization(source: Source, target: CheckpointFormat) -> Quantization:
    quantization = source.descriptor.quantization
    if source.format is target:
        raise refuse_source(source.format, target, "it is in this layout already", "use it as it is")
    if source.format is CheckpointFormat.DENSE or quantization is None:
        simulated = quantization is not None and quantization.simulated
        why = "its quantized values are simulated, without codes and scales" if simulated else "it is not quantized"
        raise refuse_source(source.format, target, why, "compress it with a method that stores packed weights")
    if source.format not in REPACKED:
        raise refuse_source(
            source.format,
            target,
            f"activations of {quantization.activation_bits} bits have no place there",
            "export it dequantized (dense), or serve it with an engine that reads compressed-tensors",
        )
    return quantization


def _refuse_act_order(source: Source, target: CheckpointFormat) -> None:
    """Before anything is written; config.json alone does not tell whether a linear makes use of what it allows."""
    if source.scheme is None or not source.scheme.act_order:
        return
    for linear in source.packed_linears:
        if source.decode(linear).group_of is not None:
            raise named(linear, refuse_act_order(target.value))


def _encode(source: Source, target: CheckpointFormat, linear: str, *, symmetric: bool) -> Mapping[str, Tensor]:
    weight = source.decode(linear)
    middle = 2 ** (weight.bits - 1)
    if symmetric and not bool((weight.zero == middle).all()):
        raise BadCheckpoint(
            f"{linear} has zero points, but its checkpoint's descriptor says symmetric", hint="compress it again"
        )
    try:
        encoded = layouts.encode(target, replace(weight, symmetric=symmetric), weight.scale.dtype)
    except Unsupported as refusal:
        raise named(linear, refusal) from refusal
    return {f"{linear}.{suffix}": tensor for suffix, tensor in encoded.items()}
