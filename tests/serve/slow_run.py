"""A run in a process of its own, whose stages wait for a test: python -m tests.serve.slow_run STORE GATES

`fetch/tiny` and the compression go on when the folder GATES has a file `fetch`, or `compress`. Of the compression one
step of three is done before.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from harness.contract import CompressRequest, Log, Progress, WorkRequest
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import Bench
from tests.support.stage_workers import keeping_worker

COMPRESS = "compress/tiny/sparsegpt-50%"
MESSAGE = "block 1 is <b>pruned</b>"


def main(root: Path, gates: Path) -> None:
    def tell(request: WorkRequest) -> Iterator[Log | Progress]:
        if isinstance(request, CompressRequest):
            yield Progress(done=1, total=3, unit="block")
            yield Log(message=MESSAGE)
            _wait(gates / "compress")
            yield Progress(done=3, total=3, unit="block")
        elif request.id == "fetch/tiny":
            _wait(gates / "fetch")

    Bench(root).run(FakeRuntime(keeping_worker, tell=tell))


def _wait(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.05)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
