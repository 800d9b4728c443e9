"""Workers as processes of this machine, each in the virtual environment of its image's lock.

Same harness, same lock, same contract as a container. Not covered, and so weaker than the Docker runtime: the network
and the rest of the file system stay reachable, the process limit is not enforced, and a memory limit is a look at what
the worker and its children hold several times a second. Started by root, workers are nobody's.
"""

import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import IO, Self

from pydantic import ValidationError

from harness.contract import DeviceKind, Event, Frozen, read_regular
from harness.contract.warm import Order
from orchestrator.errors import RuntimeUnavailable
from orchestrator.host.files import scratch_folder, sweep_unfinished, write_atomically
from orchestrator.host.owner import Owner
from orchestrator.host.scratch import scratch_path, sweep_scratch
from orchestrator.images.image import Image
from orchestrator.images.inputs import own_modules, process_identity
from orchestrator.images.package_sources import HUB_VARIABLES, PackageSources
from orchestrator.runtime.base import Completed, Invocation, RuntimeName
from orchestrator.runtime.environments import ENVIRONMENTS_NAME, Environments, WorkerEnvironment
from orchestrator.runtime.identity import WorkerIdentity, find_identity
from orchestrator.runtime.launch import Exit, Launch, Listener, Watch, run_invocation
from orchestrator.runtime.reach import Reach
from orchestrator.runtime.stream import TextLog
from orchestrator.runtime.supervision import Outlets, StartedWorker, Worker, supervise
from orchestrator.runtime.survivors import INVOCATION_VARIABLE, find_survivors, kill_survivors
from orchestrator.runtime.warm import HOME_OF_EACH, WarmServer, WarmServers, modules_of
from orchestrator.stages import ImageIdentity

RUNNING_NAME = "running"
_HARNESS = ("-m", "harness")
_WARM_HARNESS = ("-m", "harness.warm")
_OWN_VARIABLES = frozenset({"LLMCBENCH_IMAGE", INVOCATION_VARIABLE})
_WHILE_IMPORTING = {
    "HOME": HOME_OF_EACH,
    "TMPDIR": HOME_OF_EACH,
    "OMP_WAIT_POLICY": "PASSIVE",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""In place of a worker's own. The wait policy is what a worker sets before it imports (`harness.operations`). pyarrow's
allocator would start a thread, which no fork has."""
_PYDANTIC = re.compile(r"^pydantic==", re.MULTILINE)
_FORWARDED = ("LD_LIBRARY_PATH", "TZ")


class _Running(Frozen):
    """Kept on disk while a worker runs, so that another orchestrator can clean up after a dead one."""

    owner: Owner
    token: str
    image: str
    stage: str
    scratch: Path | None = None


class ProcessRuntime:
    """`root` is the store's folder. `worker` is what the environment's Python is started with, whatever the image says:
    otherwise the image's own command, or else the harness.

    `warm`: workers that nobody times may be forks of a process that has imported already what they need.
    """

    def __init__(self, root: Path, *, worker: tuple[str, ...] | None = None, warm: bool = False) -> None:
        root = root.absolute()
        self._environments = Environments(root / ENVIRONMENTS_NAME)
        self._running = root / RUNNING_NAME
        self._worker = worker
        self._warm = WarmServers() if warm and worker is None else None

    @property
    def name(self) -> RuntimeName:
        return RuntimeName.PROCESS

    @property
    def remark(self) -> str:
        """What is unusual about who its workers are, as far as that is known before there is one."""
        return find_identity((Path(sys.executable), self._environments.harness(), self._running.parent)).remark

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
        modules = () if self._warm is None else modules_of(invocation)
        return run_invocation(
            self, invocation, (inputs, str(invocation.output.resolve())), on_event, cancel, modules=modules
        )

    def launch(self, work: Launch, stdout: Listener, stderr: Path, cancel: threading.Event) -> Exit:
        """Start the worker in a session of its own and see it to its end.

        Raises:
            RuntimeUnavailable: the image is not prepared, or a certain user is asked for.
        """
        if work.user is not None:
            raise RuntimeUnavailable("a process is not any user that is asked for", hint="use the Docker runtime")
        found = self._environments.find(work.image, work.device.kind)
        if found is None:
            raise RuntimeUnavailable(f"image {work.image.name!r} is not prepared", hint="call prepare() first")
        with (
            self._marked(work.image.name, work.stage) as (token, scratch),
            stderr.open("wb") as file,
            TextLog(file, work.secrets) as log,
        ):
            home = scratch / "home"
            identity = self._identity_for(work, found)
            identity.give(scratch, home, found.bytecode)
            variables = _variables(work, found, home) | {
                "PYTHONPATH": self._modules(work.image),
                INVOCATION_VARIABLE: token,
            }
            command = [*identity.prefix, *self._command(work.image, found)]
            with _stdin(work, scratch / "stdin") as request, ExitStack() as held:
                watch = Watch(work.limits, cancel, stdout, work.output)
                worker: Worker | None = None
                if self._warm is not None and work.modules:
                    kind = _Kind.of(identity, found, variables)
                    start = partial(self._start_warm, work.image.name, kind)
                    order = Order(modules=work.modules, variables=variables, folder=home, mark=INVOCATION_VARIABLE)
                    worker = held.enter_context(self._warm.worker(kind, start, order, request, watch, log))
                worker = worker or StartedWorker(command, variables, home, request)
                return supervise(worker, Outlets(stdout, log), watch)

    @contextmanager
    def _marked(self, image: str, stage: str) -> Iterator[tuple[str, Path]]:
        """A token by which all processes are found that have it among their variables, and a folder for them: both are
        noted on disk, and gone at the end with the processes."""
        token, owner = secrets.token_hex(16), Owner.current()
        entry = self._running / f"{token}.json"
        entry.parent.mkdir(exist_ok=True)  # below the folder that the environment was found in
        place = scratch_path(owner, token)
        running = _Running(owner=owner, token=token, image=image, stage=stage, scratch=place)
        write_atomically(entry, running.model_dump_json())
        try:
            with scratch_folder(place) as scratch:
                yield token, scratch
        finally:
            kill_survivors(token)
            entry.unlink(missing_ok=True)

    def _start_warm(self, image: str, kind: "_Kind", stack: ExitStack) -> WarmServer:
        token, scratch = stack.enter_context(self._marked(image, "that is yet to come"))
        home = scratch / "home"
        kind.identity.give(scratch, home)
        variables = {**dict(kind.variables), INVOCATION_VARIABLE: token}
        return WarmServer([*kind.identity.prefix, str(kind.python), *_WARM_HARNESS], variables, home)

    def _identity_for(self, work: Launch, environment: WorkerEnvironment) -> WorkerIdentity:
        beside = () if work.output is None else (work.output.parent,)
        read = (environment.python, self._environments.harness(), work.image.description_path)
        return find_identity((*read, Path(gettempdir()), *beside, *work.inputs.values()))

    def _command(self, image: Image, environment: WorkerEnvironment) -> list[str]:
        if self._worker is None and image.description.command:
            return [_in_folder(word, image.folder) for word in image.description.command]
        return [str(environment.python), *(self._worker or _HARNESS)]

    def _modules(self, image: Image) -> str:
        """Where the worker finds modules that are not of its lock: the harness, and those of the image's own folder."""
        own = [str(image.folder.resolve())] if own_modules(image) else []
        return os.pathsep.join([str(self._environments.harness()), *own])

    def close(self) -> None:
        """End the processes that keep imports ready."""
        if self._warm is not None:
            self._warm.close()

    def sweep(self) -> tuple[str, ...]:
        """Kill the processes that dead orchestrators left behind, and remove the folders of their own."""
        swept = []
        sweep_unfinished(self._running)
        for entry in sorted(self._running.glob("*.json")):
            try:
                running = _Running.model_validate_json(read_regular(entry))
            except FileNotFoundError:
                continue  # finished meanwhile
            except (ValidationError, OSError):
                # Written as a whole, so it is damaged: whose it is nobody can tell any more, its name is the token.
                if not find_survivors(entry.stem):
                    entry.unlink(missing_ok=True)
                continue
            if running.owner.is_dead():
                killed = kill_survivors(running.token)
                if running.scratch is not None:
                    sweep_scratch(running.scratch, running.owner, running.token)
                entry.unlink(missing_ok=True)
                if killed:
                    swept.append(f"{killed} process(es) of {running.image} for stage {running.stage}")
        return tuple(swept)


@dataclass(frozen=True)
class _Kind:
    """What workers have in common that are forks of one process: who they are, and what they had when they imported."""

    identity: WorkerIdentity
    python: Path
    variables: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, identity: WorkerIdentity, found: WorkerEnvironment, variables: Mapping[str, str]) -> Self:
        """`variables` are those of a worker, some of which are its own alone."""
        common = {name: value for name, value in variables.items() if name not in _OWN_VARIABLES}
        return cls(identity, found.python, frozenset({**common, **_WHILE_IMPORTING}.items()))


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
    if work.reach is not Reach.NOTHING:
        variables |= _network_variables(work.reach)
    return variables | work.variables(os.environ) | dict(work.environment)


def _network_variables(reach: Reach) -> dict[str, str]:
    sources = PackageSources.configured()
    certificate = str(sources.certificate) if sources.certificate else None
    variables = dict(sources.proxies) | sources.pip_environment(certificate=certificate, shares_files=True)
    if reach is Reach.HUB:
        variables |= {name: os.environ[name] for name in HUB_VARIABLES if name in os.environ}
    if certificate:
        variables |= {"SSL_CERT_FILE": certificate, "REQUESTS_CA_BUNDLE": certificate}
    return variables
