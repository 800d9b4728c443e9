"""One store, one manifest and the real command, run in forks of this process: each starts with all modules loaded."""

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial, partialmethod
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

from ruamel.yaml import YAML

from orchestrator.images.torch_source import Decision as TorchChoice
from orchestrator.report.plots import plots
from orchestrator.runtime.base import Completed, Invocation
from orchestrator.runtime.process import RUNNING_NAME, ProcessRuntime
from orchestrator.runtime.survivors import INVOCATION_VARIABLE
from tests.faults import replaying
from tests.support.environments import bare_environment
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.telling_worker import telling_worker

ASKED: dict[str, object] = MANIFEST | {
    "name": "faults",
    "compress": [{"method": "sparsegpt", "setting": "50%"}, {"method": "wanda", "setting": "50%"}],
    "runtime": "process",
}
WORKER = Path(replaying.__file__)
_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
"""This one may lie where only its owner can read."""
PATIENCE_SECONDS = 120
"""What no command takes that is not stuck, on a busy machine either."""


class QuietMachine:
    """Nothing but the run is at work: a measurement that was disturbed would be taken again."""

    def load(self) -> object:
        from orchestrator.host.load import MachineLoad

        return MachineLoad(load_average=0.5, pressure_fraction=0.0, steal_fraction=0.0)


class _Recording(FakeRuntime):
    """Keeps what its worker left, for `replaying`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(telling_worker)
        self._folder = folder

    def run(self, invocation: Invocation, *rest: object) -> Completed:
        completed = super().run(invocation, *rest)  # type: ignore[arg-type]
        inputs = {name: str(path) for name, path in invocation.inputs.items()}
        key = replaying.key_of(invocation.request(inputs, str(invocation.output)).model_dump(mode="json"))
        shutil.copytree(invocation.output, self._folder / key)
        return completed


def record_answers(folder: Path, scratch: Path) -> None:
    """Answers to every request of the manifest, in `folder`. What commands load is loaded here, for their forks."""
    folder.mkdir()
    for module in ("orchestrator.cli.app", "orchestrator.report", "orchestrator.store.verifying", "sqlite3"):
        import_module(module)
    plots(("dense", "sparsegpt", "wanda"))
    with _without_the_machine():
        record = Bench(scratch / "recorded").run(_Recording(folder), ASKED)
    assert record.complete, record.stages


@contextmanager
def _without_the_machine() -> Iterator[None]:
    with ExitStack() as patches:
        for name, instead in (
            ("orchestrator.run.execution.LoadWatch", QuietMachine),
            # What a worker says it took is recorded, and longer than its process is there.
            ("orchestrator.run.verdict.implausible", lambda *_: None),
            # It weighs a hundred KiB where the model that it names has hundreds of MB.
            ("orchestrator.run.run.check_space", lambda *_: ()),
            ("orchestrator.run.execution.RESERVE_BYTES", 0),
            ("orchestrator.run.facts.checkout_commit", lambda: "0" * 40),
            ("orchestrator.run.setup.find_dataset", lambda repository, revision: None),
            ("orchestrator.run.setup.model_config", lambda repository, revision: None),
            ("orchestrator.runtime.environments.run_uv", partial(bare_environment, python=_PYTHON)),
            ("orchestrator.runtime.environments.choose_build", lambda image, *_: (image, TorchChoice())),
            ("orchestrator.runtime.environments.install_lock", lambda *_: None),
            ("orchestrator.cli.inspection._prune_engine", lambda *, dry_run: []),
        ):
            patches.enter_context(mock.patch(name, instead))
        yield


@dataclass
class Ended:
    """How a command ended. `status` is negative where a signal ended it."""

    status: int
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    @property
    def is_explained(self) -> bool:
        """Not a traceback."""
        return "Traceback (most recent call last)" not in self.stderr


@dataclass
class Command:
    """A command at work in a process of its own."""

    pid: int
    folder: Path
    status: int | None = None

    def alive(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def signal(self, number: signal.Signals) -> None:
        if self.alive():
            os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> Ended:
        """Its end.

        Raises:
            TimeoutError: it does not end; it is killed.
        """
        until = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.status = -int(signal.SIGKILL)
                raise TimeoutError(f"it did not end within {seconds:.0f} s: {self._read('stderr')[-500:]}")
            time.sleep(0.002)
        assert self.status is not None
        return Ended(self.status, self._read("stdout"), self._read("stderr"))

    def _read(self, name: str) -> str:
        return (self.folder / name).read_text("utf-8", errors="replace")


def _timeless(document: Any) -> Any:
    if isinstance(document, list):
        return [_timeless(one) for one in document]
    if isinstance(document, dict):
        return {name: _timeless(one) for name, one in document.items() if name not in ("begun", "ended")}
    return document


@dataclass
class World:
    """`root` is new and everybody's to enter. `user` runs the commands, else whoever runs this."""

    root: Path
    answers: Path
    user: tuple[int, int] | None = None
    within: Callable[[], object] = lambda: None
    """Done in each command's process before it begins: what a fault does to the process itself."""
    commands: int = 0
    at_work: list[Command] = field(default_factory=list)
    mounts: ExitStack = field(default_factory=ExitStack)
    is_guest: bool = False
    """Of a world that is there."""
    run_seconds: float = 1.0
    """What a run takes that nothing disturbs."""
    undisturbed: str = ""
    """Its figures."""
    damaged: str = ""
    """The record, result or artifact that a fault has damaged a file of."""

    def __post_init__(self) -> None:
        if self.is_guest:
            return
        for folder in (self.root, self.temporary, self.store.parent):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o1777)
        with self.manifest.open("w", encoding="utf-8") as file:
            YAML().dump(json.loads(json.dumps(ASKED)), file)

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def store(self) -> Path:
        return self.root / "disk" / "store"

    @property
    def manifest(self) -> Path:
        return self.root / "asked.yaml"

    @property
    def manners(self) -> Path:
        """Where it is there, who answers otherwise than recorded, and how: see `replaying`."""
        return self.root / "manners"

    def start(self, *arguments: str) -> Command:
        """`orchestrator` with these arguments and the store."""
        self.commands += 1
        folder = self.root / f"command-{self.commands}"
        folder.mkdir()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._be_the_command(folder, [*arguments, "--store", str(self.store)])
        command = Command(pid, folder)
        self.at_work.append(command)
        return command

    def command(self, *arguments: str) -> Ended:
        return self.start(*arguments).wait()

    def start_run(self) -> Command:
        return self.start("run", str(self.manifest), "--progress", "plain")

    def run(self) -> Ended:
        return self.start_run().wait()

    def figures(self) -> str:
        """The score document of the last run, without the run's name, and without when something was measured.

        Raises:
            LookupError: there is none.
        """
        ended = self.command("score", "last", "--json")
        if ended.status not in (0, 3) or not ended.stdout:
            raise LookupError(f"score ends with {ended.status}: {ended.stderr}")
        return json.dumps({**_timeless(json.loads(ended.stdout)), "run": ""}, sort_keys=True)

    def must_not_show_other_figures(self) -> None:
        """Each value and score that is shown is that of the undisturbed run, if it is there at all.

        Raises:
            AssertionError: one is another, or the command ends as none may.
        """
        ended = self.command("score", "last", "--json")
        assert ended.is_explained and ended.status in (0, 2, 3), f"score: {ended.status}: {ended.stderr[-1000:]}"
        if not ended.stdout:
            return
        right = json.loads(self.undisturbed)
        shown = _timeless(json.loads(ended.stdout))
        for part in ("values", "measured"):
            known = [json.dumps(one, sort_keys=True) for one in right[part]]
            for one in shown[part]:
                if one.get("value") is not None:
                    assert json.dumps(one, sort_keys=True) in known, f"another figure is shown: {one}"

    def workers(self) -> list[int]:
        """Processes that serve this world's runs, or did."""
        found = []
        needles = (INVOCATION_VARIABLE.encode() + b"=", os.fsencode(self.root))
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit():
                    variables = (entry / "environ").read_bytes()
                    if all(needle in variables for needle in needles):
                        found.append(int(entry.name))
        return found

    def left_over(self) -> list[str]:
        """What no run may leave once it has come to its end."""
        found = [f"worker {pid}" for pid in self.workers()]
        found += [f"scratch {path.name}" for path in self.temporary.glob("llmcbench-*-*")]
        found += [f"{RUNNING_NAME} {path.name}" for path in (self.store / RUNNING_NAME).glob("*.json")]
        found += [f"attempt {path.name}" for path in (self.store / "attempts").glob("*") if "@" in path.name]
        found += [f"unfinished {path.relative_to(self.store)}" for path in self.store.rglob("*.tmp")]
        return found

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for command in self.at_work:
            if command.alive():
                os.kill(command.pid, signal.SIGKILL)
                os.waitpid(command.pid, 0)
        for pid in self.workers():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.mounts.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def _be_the_command(self, folder: Path, arguments: Sequence[str]) -> None:
        """Never returns."""
        status = 70
        try:
            os.setsid()
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o644), number)
            # Not what pytest has put in their place.
            sys.stdout, sys.stderr = (os.fdopen(one, "w", encoding="utf-8", closefd=False) for one in (1, 2))
            os.environ["TMPDIR"] = str(self.temporary)
            os.environ.pop("LLMCBENCH_DATA", None)
            if self.user is not None:
                os.setgroups([])
                os.setgid(self.user[1])
                os.setuid(self.user[0])
            worker = ("-I", "-S", str(WORKER), str(self.answers), str(self.manners))
            served = partialmethod(ProcessRuntime.__init__, worker=worker)
            with _without_the_machine(), mock.patch.object(ProcessRuntime, "__init__", served):
                mock.patch("tempfile.tempdir", None).start()
                self.within()
                from orchestrator.cli import main

                sys.argv = ["orchestrator", *arguments]
                main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001  what a user would see as a traceback
            traceback.print_exc()
            status = 1
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
