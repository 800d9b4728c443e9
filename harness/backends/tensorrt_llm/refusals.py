"""What TensorRT-LLM must not be given, and the words by which it refuses the rest.

Sources, in NVIDIA/TensorRT-LLM: `llmapi/llm_utils.py` (`Unsupported quantization_config`), `_torch/modules/linear.py`
(`unsupported quant mode`), `_torch/models/modeling_auto.py` (`Unknown architecture`), `_torch/pyexecutor/
py_executor_creator.py` (`Executor creation failed due to insufficient GPU memory`). Read, never seen by us.
"""

import re

from harness.backends import refusals
from harness.contract import CheckpointDescriptor, CheckpointFormat, Reason
from harness.errors import Unsupported, WorkerError

_SERVED = ("dense", "modelopt/w4a16-awq", "modelopt/fp8")
_WORDING = refusals.Wording(
    "TensorRT-LLM",
    re.compile(r"out of memory|insufficient GPU memory|bad_alloc|OutOfMemory|[Nn]ot enough (?:free )?(?:GPU )?memory"),
    (
        (Reason.DTYPE, re.compile(r"[Uu]nsupported (?:data ?type|dtype)|dtype.*not supported")),
        (Reason.FORMAT, re.compile(r"Unsupported quantization_config|unsupported quant mode|Unsupported quant")),
        (Reason.ARCHITECTURE, re.compile(r"Unknown architecture|does not recognize this architecture")),
        (Reason.SHAPE, re.compile(r"must be divisible by|is not divisible by|head_?(?:size|dim).*not supported")),
    ),
)


def refuse_format(descriptor: CheckpointDescriptor) -> None:
    """Raise Unsupported for a layout that the library's PyTorch path has no reader for, or would misread."""
    if descriptor.format.value in _SERVED:
        return
    if descriptor.format is CheckpointFormat.INT_QUANTIZED:
        raise Unsupported(
            Reason.FORMAT,
            "TensorRT-LLM has no INT8 W8A8 linear on PyTorch, and releases that read compressed-tensors take any 8-bit"
            " scheme for FP8: the codes would silently be read as other numbers",
            hint="serve it with vLLM, or export it dequantized, which says nothing about the speed of W8A8",
        )
    raise Unsupported(
        Reason.FORMAT,
        f"TensorRT-LLM does not read {descriptor.format.value} weights; it reads {', '.join(_SERVED)}",
        hint="export 4-bit weights of group size 128 to ModelOpt's layout, or serve the checkpoint with vLLM",
    )


def explain(failure: BaseException, *, doing: str) -> WorkerError:
    """The error to raise instead of `failure`, which TensorRT-LLM ended with while `doing`."""
    return refusals.explain(failure, _WORDING, doing=doing)
