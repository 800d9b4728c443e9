"""What vLLM must find in its process before it is imported.

The engine runs in the worker's own process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`), so /dev/shm is not needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.backends.hosting import variables_set
from harness.contract import Device, DeviceKind
from harness.environment import available_threads


@contextmanager
def engine_environment(device: Device) -> Iterator[None]:
    """Set the variables that vLLM reads, all its caches below one scratch folder, and put the old ones back."""
    with (
        TemporaryDirectory(prefix="vllm-", ignore_cleanup_errors=True) as scratch,
        variables_set(_variables(device, Path(scratch))),
    ):
        yield


def _variables(device: Device, scratch: Path) -> dict[str, str]:
    """`VLLM_CPU_INT4_W4A8` is on by default, and rounds the activations of W4A16 to 8 bits where the CPU has AMX.

    An eager engine compiles its log-probabilities all the same (`vllm/v1/sample/ops/logprobs.py`, 0.32.0), which takes
    a C++ compiler that the image for a CPU has not: `TORCHDYNAMO_DISABLE` leaves that function as it was written.
    """
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(scratch / "cache"),
        "VLLM_CONFIG_ROOT": str(scratch / "config"),
        "XDG_CACHE_HOME": str(scratch / "xdg"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_CPU_INT4_W4A8": "0",
    }
    if device.kind is DeviceKind.CPU:
        variables["OMP_NUM_THREADS"] = str(device.threads or available_threads())
        variables["TORCHDYNAMO_DISABLE"] = "1"
    return variables
