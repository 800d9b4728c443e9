"""To ModelOpt's `FP8`, for TensorRT-LLM, from dense weights: E4M3 with one scale a tensor. Not exact: it rounds.

ModelOpt also stores each input's scale, for which it runs calibration text through the model. Here none is stored, and
TensorRT-LLM then takes the scale of each input as it occurs (docs/exporting.md names the source). Linears that it fuses
share the largest of their scales, as in ModelOpt's exports; otherwise it would round their weights a second time.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor

from harness.contract import CheckpointFormat, Exported, ExportParameters, Quantization
from harness.exporting.conversion import Conversion, Replacement, refuse_source
from harness.exporting.modelopt import DOCUMENT_NAME, document
from harness.exporting.source import Source

_LARGEST = 448.0
_TARGET = CheckpointFormat.MODELOPT_FP8


def convert(source: Source, _: ExportParameters) -> Conversion:
    """Raises Unsupported for weights that are quantized already, of which INT8 ones would be taken for FP8."""
    if source.format is CheckpointFormat.INT_QUANTIZED:
        why = "its weights are 8-bit integers, and TensorRT-LLM takes any 8-bit weights of compressed-tensors for FP8"
        raise refuse_source(source.format, _TARGET, why, "export the uncompressed checkpoint, or use another engine")
    if source.format is not CheckpointFormat.DENSE or source.descriptor.quantization is not None:
        why = "its weights are quantized already, and would be rounded a second time"
        raise refuse_source(source.format, _TARGET, why, "export the uncompressed checkpoint")
    replaced: dict[str, Replacement] = {}
    quantized = set()
    for block in source.blocks:
        for group in block.groups:
            names = tuple(source.stored_name(f"{linear.name}.weight") for linear in group.linears)
            scale = cache(partial(_shared_scale, source, names))
            replaced |= {name: partial(_encode, source, name, scale) for name in names}
            quantized |= {linear.name for linear in group.linears}
    excluded = source.dense_linears(frozenset(quantized))
    told = {"quant_algo": "FP8"}
    scheme = {"quant_method": "modelopt", **told, "ignore": list(dict.fromkeys([*excluded, "lm_head"]))}
    changes = {
        "format": _TARGET,
        "quantization": Quantization(weight_bits=8, activation_bits=8, float8=True),
        "exported": Exported(source=source.descriptor.digest, source_format=source.format, exact=False),
    }
    return Conversion(
        replaced=replaced,
        config={**source.config, "quantization_config": scheme},
        descriptor=source.descriptor.model_copy(update=changes),
        linears=len(quantized),
        documents={DOCUMENT_NAME: document(told, excluded)},
        notes=("FP8 weights by rounding to nearest; no scales of inputs, which the engine takes as they occur",),
    )


def _shared_scale(source: Source, names: tuple[str, ...]) -> Tensor:
    """float32 scalar: the largest weight of all the linears is the largest number of the format."""
    largest = max(float(source.tensor(name).abs().max()) for name in names)
    return torch.tensor(largest / _LARGEST if largest else 1.0, dtype=torch.float32)


def _encode(source: Source, name: str, scale: Callable[[], Tensor]) -> Mapping[str, Tensor]:
    shared = scale()
    codes = (source.tensor(name).float() / shared).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return {name: codes, f"{name}_scale": shared.clone()}
