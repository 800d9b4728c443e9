"""To dense weights: packed ones dequantized, and layers of different widths filled up, for engines that read no other.

A dequantized checkpoint is labelled so, and keeps the method that made it: an engine serves it with the size and speed
of dense weights, whatever it then does with them itself.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from harness.contract import CheckpointFormat, Exported, ExportParameters, LayerWidthsExport
from harness.exporting.conversion import Conversion, Replacement, nothing
from harness.exporting.source import Source
from harness.exporting.widths import one_width
from harness.models.loading import TORCH_DTYPES

_DENSE = CheckpointFormat.DENSE


def convert(source: Source, parameters: ExportParameters) -> Conversion:
    """Raises Unsupported for layers that cannot be made of one width."""
    if parameters.layers is not LayerWidthsExport.KEPT and source.format is _DENSE:
        return one_width(source, pad=parameters.layers is LayerWidthsExport.PADDED)
    return _same_layers(source)


def _same_layers(source: Source) -> Conversion:
    descriptor = source.descriptor
    quantization = descriptor.quantization
    replaced: dict[str, Replacement] = {}
    linears = {} if source.format is _DENSE else source.packed_linears
    for linear, parts in linears.items():
        first, *others = parts.values()
        replaced[first] = partial(_dequantize, source, linear, TORCH_DTYPES[descriptor.dtype])
        replaced |= dict.fromkeys(others, nothing)
    exported = Exported(
        source=descriptor.digest,
        source_format=source.format,
        exact=not linears,
        dequantized=quantization is not None,
    )
    notes: tuple[str, ...] = ()
    if linears:
        made = f"{source.format.value} weights dequantized to {descriptor.dtype.value}"
        notes = (f"{made}: size and speed are those of a dense model",)
    if quantization is not None:
        quantization = quantization.model_copy(update={"simulated": True})
        if quantization.activation_bits < 16:
            bits = quantization.activation_bits
            notes += (f"an engine does not quantize the activations, which the method has in {bits} bits",)
    return Conversion(
        replaced=replaced,
        config={key: value for key, value in source.config.items() if key != "quantization_config"},
        descriptor=descriptor.model_copy(update={"format": _DENSE, "quantization": quantization, "exported": exported}),
        linears=len(linears),
        notes=notes,
    )


def _dequantize(source: Source, linear: str, dtype: torch.dtype) -> Mapping[str, Tensor]:
    return {f"{linear}.weight": source.decode(linear).dequantize(dtype)}
