"""To ModelOpt's `W4A16_AWQ`, for TensorRT-LLM, exactly: symmetric weights of 4 bits in groups of 64 or 128.

Whichever method chose the codes: the layout says how they lie, not who made them. As in ModelOpt's own exports, the
linears that TensorRT-LLM fuses have no `pre_quant_scale`, and the others must have one; it is ones.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from harness.contract import CheckpointFormat, ExportParameters
from harness.exporting.conversion import Conversion, Replacement
from harness.exporting.modelopt import DOCUMENT_NAME, document
from harness.exporting.repacking import repack
from harness.exporting.source import Source

_FUSED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_TOLD = ("quant_algo", "group_size", "has_zero_point", "pre_quant_scale")


def convert(source: Source, _: ExportParameters) -> Conversion:
    """Raises Unsupported for zero points, other bits or groups, and what is not quantized weights alone."""
    packed = repack(source, CheckpointFormat.MODELOPT_AWQ)
    scheme = packed.config["quantization_config"]
    told = {key: scheme[key] for key in _TOLD}
    return replace(
        packed,
        replaced={name: _without_needless_scales(made) for name, made in packed.replaced.items()},
        documents={DOCUMENT_NAME: document(told, scheme["ignore"])},
    )


def _without_needless_scales(make: Replacement) -> Replacement:
    def made() -> Mapping[str, Tensor]:
        return {name: tensor for name, tensor in make().items() if not _needless(name)}

    return made


def _needless(name: str) -> bool:
    linear, _, suffix = name.rpartition(".")
    return suffix == "pre_quant_scale" and linear.rpartition(".")[2] in _FUSED
