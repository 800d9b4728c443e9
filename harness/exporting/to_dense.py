"""To dense weights: packed ones dequantized, and layers of different widths filled up, for engines that read no other.

A dequantized checkpoint is labelled so, and keeps the method that made it: an engine serves it with the size and speed
of dense weights, whatever it then does with them itself.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from harness.contract import CheckpointFormat, Dtype, Exported, ExportParameters, LayerWidthsExport, Reason
from harness.errors import Unsupported
from harness.exporting.conversion import Conversion, Replacement, nothing
from harness.exporting.source import Source
from harness.exporting.widths import one_width
from harness.models.loading import TORCH_DTYPES

_DENSE = CheckpointFormat.DENSE


def convert(source: Source, parameters: ExportParameters) -> Conversion:
    """Raises Unsupported where values leave the dtype asked for, and for layers that cannot be made of one width."""
    stored, wanted = source.descriptor.dtype, parameters.dtype or source.descriptor.dtype
    plain = source.format is _DENSE
    if parameters.layers is not LayerWidthsExport.KEPT and plain:
        conversion = one_width(source, pad=parameters.layers is LayerWidthsExport.PADDED)
    else:
        conversion = _same_layers(source, wanted)
    if wanted is stored:
        return conversion
    return _in_dtype(source, conversion, wanted)


def _same_layers(source: Source, wanted: Dtype) -> Conversion:
    descriptor = source.descriptor
    quantization = descriptor.quantization
    replaced: dict[str, Replacement] = {}
    linears = {} if source.format is _DENSE else source.packed_linears
    for linear, parts in linears.items():
        first, *others = parts.values()
        replaced[first] = partial(_dequantize, source, linear, TORCH_DTYPES[wanted])
        replaced |= dict.fromkeys(others, nothing)
    exported = Exported(
        source=descriptor.digest,
        source_format=source.format,
        exact=not linears,
        dequantized=quantization is not None,
    )
    notes: tuple[str, ...] = ()
    if linears:
        notes = (
            f"{source.format.value} weights dequantized to {wanted.value}: size and speed are those of a dense model",
        )
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


def _in_dtype(source: Source, conversion: Conversion, wanted: Dtype) -> Conversion:
    """The conversion with every floating-point tensor in another dtype; no longer exact unless the dtype is wider."""
    descriptor, exported = conversion.descriptor, conversion.descriptor.exported
    assert exported is not None  # noqa: S101  both kinds of conversion fill it in
    kept: dict[str, Replacement] = {
        name: partial(_keep, source, name) for name in source.stored if name not in conversion.replaced
    }
    replaced = {name: _cast(make, TORCH_DTYPES[wanted]) for name, make in {**conversion.replaced, **kept}.items()}
    exact = exported.exact and wanted is Dtype.FLOAT32
    return Conversion(
        replaced=replaced,
        config=conversion.config,
        descriptor=descriptor.model_copy(
            update={"dtype": wanted, "exported": exported.model_copy(update={"exact": exact})}
        ),
        linears=conversion.linears,
        notes=(*conversion.notes, f"stored in {wanted.value} instead of {descriptor.dtype.value}"),
    )


def _keep(source: Source, name: str) -> Mapping[str, Tensor]:
    return {name: source.tensor(name)}


def _cast(make: Callable[[], Mapping[str, Tensor]], dtype: torch.dtype) -> Replacement:
    def made() -> Mapping[str, Tensor]:
        return {name: _one_cast(name, tensor, dtype) for name, tensor in make().items()}

    return made


def _one_cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if not bool(cast.isfinite().all()) and bool(tensor.isfinite().all()):
        raise Unsupported(
            Reason.DTYPE, f"{name} has values beyond what {dtype} holds", hint="export it in its own dtype"
        )
    return cast
