"""The words by which MLC-LLM refuses, in its own processes and in the engine.

Sources, in mlc-ai/mlc-llm: `support/auto_config.py` (`Unknown model type`), `loader/huggingface_loader.py` (a
parameter's name or shape), `model/llama/llama_model.py` (assertions on heads), `support/auto_device.py` (the device).
The engine's words on memory are read in `cpp/serve/config.cc`. None was seen by us in the engine.
"""

import re

from harness.backends import refusals
from harness.contract import Reason
from harness.errors import WorkerError

_WORDING = refusals.Wording(
    "MLC-LLM",
    re.compile(r"[Oo]ut of memory|[Ii]nsufficient GPU memory|bad_alloc|CUDA_ERROR_OUT_OF_MEMORY"),
    (
        (Reason.DEVICE, re.compile(r"Device is not found|Invalid device name|No available device")),
        (Reason.ARCHITECTURE, re.compile(r"Unknown model type|'model_type' not found")),
        (Reason.SHAPE, re.compile(r"has shape \(.*\), but expected|AssertionError|not divisible by")),
        (Reason.FORMAT, re.compile(r"[Pp]arameter .*not found|Unused extern parameters|does not support")),
    ),
)


def explain(failure: BaseException, *, doing: str) -> WorkerError:
    """The error to raise instead of `failure`, which MLC-LLM ended with while `doing`."""
    return refusals.explain(failure, _WORDING, doing=doing)
