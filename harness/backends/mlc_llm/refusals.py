"""The words by which MLC-LLM refuses, in its own processes and in the engine.

Sources, in mlc-ai/mlc-llm 0.20.0: `support/argparse.py` and `support/auto_device.py` (where the check of a device
fails, argparse says so in its own words, `compile` in the check's), `support/auto_config.py` (`Unknown model type`),
`loader/utils.py` (tensors that are missing), `interface/convert_weight.py` (a tensor's shape), `model/*/` (assertions
on heads and on rotation). Those of the commands were seen from its Python, without its library; the engine's on memory
are read in `cpp/serve/config.cc`.
"""

import re

from harness.backends import refusals
from harness.contract import Reason
from harness.errors import WorkerError

_WORDING = refusals.Wording(
    "MLC-LLM",
    re.compile(r"[Oo]ut of memory|[Ii]nsufficient GPU memory|bad_alloc|CUDA_ERROR_OUT_OF_MEMORY"),
    (
        (Reason.DEVICE, re.compile(r"argument --device: invalid \w+ value|Device is not found|No target detected")),
        (Reason.ARCHITECTURE, re.compile(r"Unknown model type|'model_type' not found")),
        (Reason.SHAPE, re.compile(r"has shape \(.*\), but expected|assert .*\b(?:hidden_size|num_\w+_heads)\b")),
        (Reason.FORMAT, re.compile(r"do not exist in the weight files|Unsupported RoPE scaling type")),
    ),
)
_EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)(?::|$)")
_USAGE_ERROR = re.compile(r"^-+ Error -+$")
_MARKS = re.compile(r"^[\s^~]*$")
_PROGRESS = "\r"


def explain(failure: BaseException, *, doing: str) -> WorkerError:
    """The error to raise instead of `failure`, which MLC-LLM ended with while `doing`."""
    return refusals.explain(failure, _WORDING, doing=doing)


def last_words(printed: str) -> str:
    """Why a command ended: what follows its usage, or its last exception, with the assertion where that says nothing.

    Its last line where it has neither.
    """
    lines = [line for line in printed.replace(_PROGRESS, "\n").splitlines() if not _MARKS.match(line)]
    starts = [number for number, line in enumerate(lines) if _EXCEPTION.match(line) or _USAGE_ERROR.match(line)]
    if not starts:
        return lines[-1].strip() if lines else "it printed nothing"
    begin = starts[-1]
    if _USAGE_ERROR.match(lines[begin]):
        begin += 1
    elif lines[begin].strip() == "AssertionError" and begin > 0:
        begin -= 1
    return " ".join(line.strip() for line in lines[begin:]) or lines[-1].strip()
