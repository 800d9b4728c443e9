"""Which of MLC-LLM's own quantizations serves a checkpoint, and in what words a result names it.

MLC converts weights itself: it reads dense safetensors and AWQ, nothing else (`support/auto_weight.py`, and
`quantization/quantization.py` for the names, in mlc-ai/mlc-llm).
"""

from dataclasses import dataclass
from typing import Literal

from harness.contract import CheckpointDescriptor, CheckpointFormat, Dtype, Frozen, Reason
from harness.errors import Unsupported

_DENSE = {"q0f16": Dtype.FLOAT16, "q0bf16": Dtype.BFLOAT16}
"""Not its `q0f32`: `convert_weight` stores float32 as bfloat16 (`interface/convert_weight.py`), which are other weights
than the checkpoint's."""
_DEFAULT = "q0f16"
_ROUNDED, _AWQ = "q4f16_1", "q4f16_autoawq"
_AWQ_GROUP = 128
_AWQ_ARCHITECTURE = "LlamaForCausalLM"
"""Of those with source `awq`, the one whose `quantize` has it too (`model/model.py`, `MODELS`)."""


class MlcLlmOptions(Frozen):
    """`quantization` is one of MLC's own names; None is the one that keeps the weights: see `choose_conversion`."""

    quantization: Literal["q0f16", "q0bf16", "q4f16_1", "q4f16_autoawq"] | None = None


@dataclass(frozen=True)
class Conversion:
    """`name` and `source_format` are arguments of `mlc_llm convert_weight`; `dtype` is what is computed in."""

    name: str
    source_format: str
    dtype: Dtype
    dtype_reason: str
    note: str


def choose_conversion(
    descriptor: CheckpointDescriptor, asked_dtype: Dtype | None, quantization: str | None
) -> Conversion:
    """What `quantization` names; where it is None, dense weights stay dense, in float16 unless bfloat16 is asked for,
    and AWQ keeps its codes.

    Raises:
        Unsupported: MLC does not read this format, the asked quantization does not start from it, or computes in
            another dtype than the one that is asked for.
    """
    name = quantization or _default(descriptor, asked_dtype)
    if descriptor.format is CheckpointFormat.DENSE and name != _AWQ:
        return _from_dense(name, asked_dtype)
    if descriptor.format is CheckpointFormat.AWQ and name == _AWQ:
        return _from_awq(descriptor, asked_dtype)
    raise Unsupported(
        Reason.FORMAT,
        f"MLC-LLM does not make {name} of {descriptor.format.value} weights",
        hint=f"it makes {_AWQ} of awq, and {', '.join((*_DENSE, _ROUNDED))} of dense weights; export to one of the two",
    )


def _default(descriptor: CheckpointDescriptor, asked: Dtype | None) -> str:
    if descriptor.format is CheckpointFormat.AWQ:
        return _AWQ
    return {dtype: name for name, dtype in _DENSE.items()}.get(asked or Dtype.FLOAT16, _DEFAULT)


def _from_dense(name: str, asked: Dtype | None) -> Conversion:
    dtype = _DENSE.get(name, Dtype.FLOAT16)
    _refuse_other_dtype(name, dtype, asked)
    reason = f"{dtype.value} was asked for" if asked else f"{dtype.value} is what MLC-LLM's {name} computes in"
    note = f"dense weights, as MLC-LLM's {name}"
    if name == _ROUNDED:
        note = f"{name}: MLC's own round-to-nearest in 4 bits, groups of 32; not a method of this benchmark"
    return Conversion(name, "huggingface-safetensor", dtype, reason, note)


def _from_awq(descriptor: CheckpointDescriptor, asked: Dtype | None) -> Conversion:
    if descriptor.architecture != _AWQ_ARCHITECTURE:
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"MLC-LLM quantizes {descriptor.architecture} in no way that starts from AWQ",
            hint=f"it reads AWQ of {_AWQ_ARCHITECTURE} alone; serve this model dense",
        )
    quantization = descriptor.quantization
    if quantization is None or (quantization.weight_bits, quantization.group_size) != (4, _AWQ_GROUP):
        raise Unsupported(
            Reason.SETTING,
            f"MLC-LLM reads AWQ weights of 4 bits in groups of {_AWQ_GROUP} alone",
            hint="quantize with W4A16g128",
        )
    _refuse_other_dtype(_AWQ, Dtype.FLOAT16, asked)
    return Conversion(
        _AWQ,
        "awq",
        Dtype.FLOAT16,
        f"float16 is what MLC-LLM's {_AWQ} computes in",
        f"{_AWQ}: the checkpoint's own 4-bit codes, computed with by MLC-LLM's kernels",
    )


def _refuse_other_dtype(name: str, dtype: Dtype, asked: Dtype | None) -> None:
    if asked not in (None, dtype):
        raise Unsupported(
            Reason.DTYPE,
            f"MLC-LLM's {name} computes in {dtype.value}, not in {asked}",
            hint="leave the dtype out, or choose another quantization",
        )
