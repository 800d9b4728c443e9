"""The tests' worker as a process of its own, in place of the harness: `python -m tests.support.worker_process FOLDER`.

It answers as `honest_worker` does, in times that its process was there for. A file in FOLDER, whose name `held_name`
gives, makes it wait for as long as it is there; others say that it waits, and what it was shown of its devices.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

from harness.contract import (
    REQUEST,
    RESULT_NAME,
    BenchmarkResult,
    CompressResult,
    Operation,
    ResultEvent,
    Started,
    WorkRequest,
    WorkResult,
)
from tests.support.fake_runtime import environment_of_a_fake
from tests.support.stage_workers import honest_worker

_POLL_SECONDS = 0.02


def held_name(stage: str) -> str:
    """The file that holds a stage: `hold.profile-tiny-dense`."""
    return f"hold.{_flat(stage)}"


def waiting_name(stage: str) -> str:
    """The file that says that a held stage's worker is there; it has the worker's process id."""
    return f"waiting.{_flat(stage)}"


def environment_name(stage: str) -> str:
    """The file with the stage's devices and what its worker was shown of them."""
    return f"environment.{_flat(stage)}.json"


def _flat(stage: str) -> str:
    return re.sub(r"[^\w.%:-]", "-", stage)


def main(control: Path) -> None:
    begin = time.monotonic()
    request = REQUEST.validate_json(sys.stdin.buffer.read())
    _say(Started(id=request.id, operation=Operation(request.operation)).model_dump_json())
    shown = {"uuids": request.device.uuids, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}
    (control / environment_name(request.id)).write_text(json.dumps(shown))
    held, waiting = control / held_name(request.id), control / waiting_name(request.id)
    if held.exists():
        waiting.write_text(str(os.getpid()))
    while held.exists():
        time.sleep(_POLL_SECONDS)
    output = Path(request.output)
    event = ResultEvent(
        id=request.id,
        result=_at_once(request, output),
        environment=environment_of_a_fake(request),
        wall_seconds=time.monotonic() - begin,
    )
    document = event.model_dump_json()
    (output / RESULT_NAME).write_text(document)
    _say(document)


def _at_once(request: WorkRequest, output: Path) -> WorkResult:
    result = honest_worker(request, output)
    if isinstance(result, CompressResult):
        seconds = {"load_seconds": 0.01, "compress_seconds": 0.02, "save_seconds": 0.01}
        return result.model_copy(update={"cost": result.cost.model_copy(update=seconds)})
    if isinstance(result, BenchmarkResult):
        rates = {"decode_tokens_per_second": 1e5, "samples": (1e5, 1e5), "prefill_tokens_per_second": 1e6}
        speeds = tuple(speed.model_copy(update=rates) for speed in result.speeds)
        return result.model_copy(update={"speeds": speeds, "load_seconds": 0.01})
    return result


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
