"""The words of vLLM's exceptions, as 0.24.0 and 0.32.0 have them."""

import re

from harness.backends import refusals
from harness.contract import Reason
from harness.errors import Unsupported, WorkerError

_MEMORY = re.compile(
    r"out of memory|can't allocate memory|bad_alloc|No available memory for the cache blocks"
    r"|[Aa]vailable memory on node|Free memory on device|larger than the available KV cache memory"
    r"|KV cache is needed, which is larger",
)
_ABSENT_KERNEL = re.compile(r"'_C' object has no attribute '(cpu_\w+)'")
"""Of its builds for CPUs the one for AVX2 lacks some, which shows when the first token is computed."""
_REFUSALS: tuple[tuple[Reason, re.Pattern[str]], ...] = (
    (
        Reason.DTYPE,
        re.compile(r"dtype.*not supported|not supported.*dtype|Bfloat16 is only supported|not implemented for '\w+'"),
    ),
    (
        Reason.FORMAT,
        re.compile(
            r"Failed to find a kernel|Unsupported num_bits|Unsupported quantization config|does not support weight_bits"
            r"|Unknown quantization method|desc_act=True\) is no longer|No compressed-tensors compatible scheme"
            r"|Sparsity support has been removed|quantization method .* is not supported|Currently, only .* bit"
        ),
    ),
    (
        Reason.ARCHITECTURE,
        re.compile(
            r"Model architectures? .* (?:is|are) not supported|was supported in vLLM until|No model architectures"
            r"|does not recognize this architecture|is not compatible with vLLM|Cannot find model module"
        ),
    ),
    (
        Reason.SHAPE,
        re.compile(
            r"Unsupported CPU attention configuration|[Hh]ead[ _]size.*(?:not supported|is not)"
            r"|not a multiple of the number of attention heads|not divisible by|must be divisible by"
        ),
    ),
)
_WORDING = refusals.Wording("vLLM", _MEMORY, _REFUSALS)


def explain(failure: BaseException, *, doing: str) -> WorkerError:
    """The error to raise instead of `failure`, which vLLM ended with while `doing`."""
    if absent := _ABSENT_KERNEL.search(str(failure)):
        return Unsupported(
            Reason.DEVICE,
            f"vLLM's build for this processor lacks {absent[1]}, which this checkpoint needs; that for AVX-512 has it",
            hint="use a processor with AVX-512, another backend, or `dense_fallback: true` under `benchmark`",
        )
    return refusals.explain(failure, _WORDING, doing=doing)
