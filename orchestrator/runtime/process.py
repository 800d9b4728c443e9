"""Workers as processes of this machine, each in the virtual environment of its image's lock.

Same harness, same lock, same contract as a container. Not covered, and so weaker than the Docker runtime: the network
and the rest of the file system stay reachable, the process limit is not enforced, and a memory limit is a look at the
worker's resident memory several times a second.
"""

import os
import re
import secrets
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from typing import IO

from pydantic import ValidationError

from harness.contract import DeviceKind, Event, Frozen
from orchestrator.errors import RuntimeUnavailable
from orchestrator.host.files import write_atomically
from orchestrator.host.owner import Owner
from orchestrator.images.catalog import Image
from orchestrator.images.inputs import own_modules, process_identity
from orchestrator.images.package_sources import HUB_VARIABLES, PackageSources
from orchestrator.runtime.base import Completed, Invocation, RuntimeName
from orchestrator.runtime.environments import ENVIRONMENTS_NAME, Environments, WorkerEnvironment
from orchestrator.runtime.launch import Exit, Launch, Watch, run_invocation
from orchestrator.runtime.residency import PeakResident
from orchestrator.runtime.survivors import INVOCATION_VARIABLE, kill_survivors
from orchestrator.stages import ImageIdentity

RUNNING_NAME = "running"
_POLL_SECONDS = 0.05
_DRAIN_SECONDS = 2.0
_CHUNK_BYTES = 1 << 16
_KIB = 1024
_HARNESS = ("-m", "harness")
_PYDANTIC = re.compile(r"^pydantic==", re.MULTILINE)
_FORWARDED = ("LD_LIBRARY_PATH", "TZ")


class _Running(Frozen):
    """Kept on disk while a worker runs, so that another orchestrator can clean up after a dead one."""

    owner: Owner
    token: str
    image: str
    stage: str


class ProcessRuntime:
    """`root` is the store's folder. `worker` is what the environment's Python is started with, whatever the image says:
    otherwise the image's own command, or else the harness.
    """

    def __init__(self, root: Path, *, worker: tuple[str, ...] | None = None) -> None:
        root = root.absolute()
        self._environments = Environments(root / ENVIRONMENTS_NAME)
        self._running = root / RUNNING_NAME
        self._worker = worker

    @property
    def name(self) -> RuntimeName:
        return RuntimeName.PROCESS

    def prepare(self, image: Image, device: DeviceKind, note: Callable[[str], None]) -> ImageIdentity:
        """Install the image's lock into an environment of its own, unless that is done. Raises as `Runtime` says."""
        found = self._environments.prepare(image, device, note)
        if self._worker is None and not image.description.command and not _has_the_harness(image, device):
            raise RuntimeUnavailable(
                f"nothing says how image {image.name!r} is started as a process: its lock is without pydantic, so what "
                "works in it is not the harness",
                hint=f"name its own `command` in {image.description_path}, or say `container_only` there and why",
            )
        return _identity(image, found)

    def identity(self, image: Image, device: DeviceKind) -> ImageIdentity | None:
        """The identity of the environment that is installed for the image's lock."""
        found = self._environments.find(image, device)
        return None if found is None else _identity(image, found)

    def run(self, invocation: Invocation, on_event: Callable[[Event], None], cancel: threading.Event) -> Completed:
        """Run one invocation; see `Runtime.run`."""
        inputs = {name: str(path.resolve()) for name, path in invocation.inputs.items()}
        return run_invocation(self, invocation, (inputs, str(invocation.output.resolve())), on_event, cancel)

    def launch(self, work: Launch, on_stdout: Callable[[bytes], None], stderr: Path, cancel: threading.Event) -> Exit:
        """Start the worker in a session of its own and see it to its end.

        Raises:
            RuntimeUnavailable: the image is not prepared, or a user other than the caller is asked for.
        """
        if work.user is not None:
            raise RuntimeUnavailable("a process runs as its caller", hint="use the Docker runtime")
        found = self._environments.find(work.image, work.device.kind)
        if found is None:
            raise RuntimeUnavailable(f"image {work.image.name!r} is not prepared", hint="call prepare() first")
        token = secrets.token_hex(16)
        entry = self._running / f"{token}.json"
        entry.parent.mkdir(parents=True, exist_ok=True)
        running = _Running(owner=Owner.current(), token=token, image=work.image.name, stage=work.stage)
        write_atomically(entry, running.model_dump_json())
        try:
            with (
                TemporaryDirectory(prefix="llmcbench-", ignore_cleanup_errors=True) as scratch,
                stderr.open("wb") as log,
            ):
                home = Path(scratch) / "home"
                home.mkdir()
                command = self._command(work.image, found)
                variables = _variables(work, found, home) | {
                    "PYTHONPATH": self._modules(work.image),
                    INVOCATION_VARIABLE: token,
                }
                with _stdin(work, Path(scratch) / "stdin") as request:
                    return _supervise(command, variables, home, request, log, on_stdout, Watch(work.limits, cancel))
        finally:
            kill_survivors(token)
            entry.unlink(missing_ok=True)

    def _command(self, image: Image, environment: WorkerEnvironment) -> list[str]:
        if self._worker is None and image.description.command:
            return [_in_folder(word, image.folder) for word in image.description.command]
        return [str(environment.python), *(self._worker or _HARNESS)]

    def _modules(self, image: Image) -> str:
        """Where the worker finds modules that are not of its lock: the harness, and those of the image's own folder."""
        own = [str(image.folder.resolve())] if own_modules(image) else []
        return os.pathsep.join([str(self._environments.harness()), *own])

    def sweep(self) -> tuple[str, ...]:
        """Kill the processes that dead orchestrators left behind."""
        swept = []
        for entry in sorted(self._running.glob("*.json")):
            try:
                running = _Running.model_validate_json(entry.read_bytes())
            except (ValidationError, OSError):
                continue  # being written, or finished meanwhile
            if running.owner.is_dead():
                killed = kill_survivors(running.token)
                entry.unlink(missing_ok=True)
                if killed:
                    swept.append(f"{killed} process(es) of {running.image} for stage {running.stage}")
        return tuple(swept)


def _identity(image: Image, environment: WorkerEnvironment) -> ImageIdentity:
    return process_identity(image, environment.lock_sha256, environment.abi)


def _has_the_harness(image: Image, device: DeviceKind) -> bool:
    return _PYDANTIC.search(image.lock_text(device)) is not None


def _in_folder(word: str, folder: Path) -> str:
    """The path of the image's file that a word of its command names; any other word as it is."""
    path = folder / word
    return str(path.resolve()) if path.is_file() else word


@contextmanager
def _stdin(work: Launch, path: Path) -> Iterator[IO[bytes]]:
    """The request as a file, which ends where it ends; or, to hold stdin open, the reading end of a pipe."""
    if work.hold_stdin:
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as request, os.fdopen(writing, "wb", buffering=0):
            yield request
        return
    path.write_bytes(work.stdin)
    with path.open("rb") as request:
        yield request


def _variables(work: Launch, environment: WorkerEnvironment, home: Path) -> dict[str, str]:
    """The worker's whole environment: what the image would set, and nothing of the caller's beyond `_FORWARDED`."""
    variables = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    variables |= {
        "PATH": f"{environment.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "USER": "worker",
        "LOGNAME": "worker",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPYCACHEPREFIX": str(environment.bytecode.resolve()),
        "LLMCBENCH_IMAGE": str(work.image.description_path.resolve()),
    }
    if work.network:
        variables |= _network_variables()
    return variables | work.variables(os.environ) | dict(work.environment)


def _network_variables() -> dict[str, str]:
    sources = PackageSources.configured()
    certificate = str(sources.certificate) if sources.certificate else None
    variables = dict(sources.proxies) | sources.pip_environment(certificate=certificate, shares_files=True)
    variables |= {name: os.environ[name] for name in HUB_VARIABLES if name in os.environ}
    if certificate:
        variables |= {"SSL_CERT_FILE": certificate, "REQUESTS_CA_BUNDLE": certificate}
    return variables


def _supervise(
    command: list[str],
    variables: Mapping[str, str],
    folder: Path,
    stdin: IO[bytes],
    stderr: IO[bytes],
    on_stdout: Callable[[bytes], None],
    watch: Watch,
) -> Exit:
    """Start, read, signal, reap. The worker's group is killed on every way out, before its id can be used again."""
    process = subprocess.Popen(  # noqa: S603  the environment's own Python
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, cwd=folder, env=variables, start_new_session=True
    )
    memory = PeakResident()
    assert process.stdout is not None  # noqa: S101  it is a pipe
    with process.stdout as stdout:
        os.set_blocking(stdout.fileno(), False)
        try:
            while not _has_ended(process.pid):
                if (demand := watch.due(memory.sample(process.pid))) is not None:
                    _signal_group(process.pid, demand)
                _read_some(stdout, on_stdout, _POLL_SECONDS)
        finally:
            _signal_group(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        wall_seconds = watch.wall_seconds
        _drain(stdout, on_stdout)
    return Exit(watch.ending, process.returncode, wall_seconds, _peak(memory, usage.ru_maxrss * _KIB))


def _has_ended(pid: int) -> bool:
    """True once the process is a zombie. It is not reaped, so that its id stays taken."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _read_some(stdout: IO[bytes], on_stdout: Callable[[bytes], None], timeout_seconds: float) -> bool:
    """Wait for output and hand on one piece. False when there was none, or no more can come."""
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        if not selector.select(timeout_seconds):
            return False
    data = os.read(stdout.fileno(), _CHUNK_BYTES)
    if not data:
        time.sleep(timeout_seconds)  # closed, while the worker goes on
        return False
    on_stdout(data)
    return True


def _drain(stdout: IO[bytes], on_stdout: Callable[[bytes], None]) -> None:
    """Read what the worker wrote before it ended; a process that escaped and keeps the pipe open is not waited for."""
    give_up = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < give_up and _read_some(stdout, on_stdout, 0.0):
        pass


def _peak(memory: PeakResident, usage_bytes: int) -> int | None:
    """The kernel's final figure, unless it may be this process's own.

    A child's `ru_maxrss` starts at its parent's peak, carried over from before `exec`; a larger one is the child's.
    """
    inherited_bytes = getrusage(RUSAGE_SELF).ru_maxrss * _KIB
    return usage_bytes if usage_bytes > inherited_bytes else memory.peak_bytes
