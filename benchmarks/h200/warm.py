"""A runtime for one machine without containers: every worker is forked from a process that has its libraries loaded.

A worker's imports take longer than a small model's evaluation. Here they are paid once: each invocation is a fresh
child of a fork server, and runs `harness.serve` with the same request, files and exit status as in the other runtimes.
All images share this interpreter's libraries, whose versions make the identity in place of an image's lock.

Not covered: isolation of any kind, and several machines.
"""

import importlib.metadata
import io
import multiprocessing
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path

from harness.contract import DeviceKind, Event, digest_of
from orchestrator.images.image import Image
from orchestrator.run.execution import execute
from orchestrator.run.scheduling import End, Work
from orchestrator.runtime.base import Completed, Invocation
from orchestrator.runtime.launch import Exit, Launch, Listener, Watch, run_invocation
from orchestrator.stages import ImageIdentity, Stage

PRELOADED = (
    "torch",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "datasets",
    "lm_eval.api.task",
    "pyarrow.parquet",
    "safetensors.torch",
)
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "lm-eval", "datasets", "numpy", "pydantic", "gguf")
_POLL_SECONDS = 0.02
_CHUNK_BYTES = 1 << 16


class WarmName(StrEnum):
    WARM = "warm"


class WarmRuntime:
    """`variables` are set for every worker, `threads` is how many each uses; `preload` names what is loaded before."""

    def __init__(self, *, threads: int, variables: Mapping[str, str], preload: Sequence[str] = PRELOADED) -> None:
        root = str(Path(__file__).parents[2])
        os.environ.update(variables)
        os.environ |= {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # the other check would open the device in the fork server
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._identity = ImageIdentity(f"warm:{digest_of(installed_libraries())}")
        self._processes = threading.Lock()

    @property
    def name(self) -> WarmName:
        return WarmName.WARM

    def prepare(self, image: Image, device: DeviceKind, note: Callable[[str], None]) -> ImageIdentity:
        return self._identity

    def identity(self, image: Image, device: DeviceKind) -> ImageIdentity:
        return self._identity

    def run(self, invocation: Invocation, on_event: Callable[[Event], None], cancel: threading.Event) -> Completed:
        inputs = {name: str(path.resolve()) for name, path in invocation.inputs.items()}
        return run_invocation(self, invocation, (inputs, str(invocation.output.resolve())), on_event, cancel)

    def launch(self, work: Launch, stdout: Listener, stderr: Path, cancel: threading.Event) -> Exit:
        """Fork a worker, hand it the request, and see it to its end."""
        variables = {"LLMCBENCH_IMAGE": str(work.image.description_path.resolve())} | dict(work.environment)
        watch = Watch(work.limits, cancel, stdout)
        reading, writing = self._context.Pipe(duplex=False)
        with self._processes:  # a process that two threads ask for its state at once loses its exit status
            process = self._context.Process(target=_serve, args=(work.stdin, writing, str(stderr), variables))
            process.start()
        writing.close()
        assert process.pid is not None  # noqa: S101  it has been started
        with reading:
            while self._is_alive(process):
                if (demand := watch.due()) is not None:
                    _signal_group(process.pid, demand)
                _read(reading, stdout.feed, _POLL_SECONDS)
            while _read(reading, stdout.feed, 0.0):
                pass
        _kill_left_behind(process.pid)
        return Exit(watch.ending, process.exitcode or 0, watch.wall_seconds, None)

    def sweep(self) -> tuple[str, ...]:
        return ()

    def _is_alive(self, process: multiprocessing.process.BaseProcess) -> bool:
        with self._processes:
            return process.is_alive()


class Lanes:
    """An executor of `count` lanes on one device: untimed stages side by side, a timed one with nothing beside it."""

    def __init__(self, count: int, cancel: threading.Event) -> None:
        self._count = count
        self._cancel = cancel

    def run(
        self, stages: Sequence[Stage], work: Work, skip: Callable[[Stage, str], None], *, done: Collection[str] = ()
    ) -> None:
        """See `orchestrator.run.scheduling.Executor`."""
        waiting = list(stages)
        succeeded = dict.fromkeys(done, True)
        running: dict[Future[End], Stage] = {}
        with ThreadPoolExecutor(self._count, thread_name_prefix="lane") as pool:
            try:
                while waiting or running:
                    for stage in [one for one in waiting if any(succeeded.get(need) is False for need in one.needs)]:
                        waiting.remove(stage)
                        succeeded[stage.id] = False
                        skip(stage, next(need for need in stage.needs if succeeded.get(need) is False))
                    for stage in self._startable(waiting, list(running.values()), succeeded):
                        waiting.remove(stage)
                        running[pool.submit(work, stage, execute)] = stage
                    if running:
                        for future in wait(running, return_when=FIRST_COMPLETED).done:
                            stage, end = running.pop(future), future.result()
                            if end is End.ELSEWHERE:
                                waiting.append(stage)
                            else:
                                succeeded[stage.id] = end is End.RESULT
            except BaseException:
                self._cancel.set()
                raise

    def _startable(self, waiting: list[Stage], running: list[Stage], succeeded: Mapping[str, bool]) -> list[Stage]:
        if any(stage.timed for stage in running):
            return []
        ready = [stage for stage in waiting if all(succeeded.get(need) for need in stage.needs)]
        if timed := [stage for stage in ready if stage.timed]:
            return [] if running else timed[:1]
        return ready[: self._count - len(running)]


def installed_libraries() -> dict[str, str]:
    """Versions of what a worker computes with, and of Python."""
    found = {"python": sys.version.split()[0]}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _serve(request: bytes, events: Connection, stderr: str, variables: Mapping[str, str]) -> None:
    """In the forked child: be a worker as `python -m harness` is one."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Path(stderr).open("wb", buffering=0) as log:
        os.dup2(log.fileno(), 2)
    os.dup2(events.fileno(), 1)
    events.close()
    sys.stdin = io.TextIOWrapper(io.BytesIO(request))
    os.environ.update(variables)
    from harness.serve import main

    sys.exit(main())


def _read(reading: Connection, on_stdout: Callable[[bytes], None], timeout_seconds: float) -> bool:
    """Hand on one piece of output; False when there was none, or no more can come."""
    with selectors.DefaultSelector() as selector:
        selector.register(reading.fileno(), selectors.EVENT_READ)
        if not selector.select(timeout_seconds):
            return False
    data = os.read(reading.fileno(), _CHUNK_BYTES)
    if not data:
        time.sleep(timeout_seconds)
        return False
    on_stdout(data)
    return True


def _kill_left_behind(pid: int) -> None:
    """Whatever an ended worker started and did not end."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _signal_group(pid: int, number: signal.Signals) -> None:
    """Also reaches a child that has not got so far as to lead a group of its own."""
    for send in (os.killpg, os.kill):
        try:
            send(pid, number)
        except ProcessLookupError:
            continue
        return
