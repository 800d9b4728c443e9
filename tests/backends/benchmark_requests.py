"""A benchmark of a few tokens, in this process."""

from pathlib import Path
from typing import Any

from harness.backends import run
from harness.contract import BenchmarkParameters, BenchmarkRequest, BenchmarkResult, Device
from tests.support.small_checkpoints import Recorder

SHORT = {"prompt_tokens": 8, "generate_tokens": 5, "batch_sizes": (1, 3)}


def perform(checkpoint: Path, *, backend: str, prompts: Path | None = None, **parameters: Any) -> BenchmarkResult:
    request = BenchmarkRequest(
        id="test",
        device=Device(threads=1),
        inputs={"checkpoint": str(checkpoint)} | ({"prompts": str(prompts)} if prompts else {}),
        output=str(checkpoint.parent),
        parameters=BenchmarkParameters.model_validate({"backend": backend, **SHORT, **parameters}),
    )
    return run(request, Recorder().reporter)
