"""The records of runs by their names."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from pydantic_core import to_json

from harness.contract import Sha256, read_regular
from orchestrator.errors import StoreError
from orchestrator.host.faults import host_fault
from orchestrator.host.files import write_atomically
from orchestrator.store import versioned
from orchestrator.store.journal import JOURNAL_NAME, Journal, replay
from orchestrator.store.records import RunRecord, StageState
from orchestrator.store.upgrades import RUN_UPGRADES, RUN_VERSION
from orchestrator.store.versioned import Unreadable

RUN_NAME = "run.json"
MOST_RECORD_BYTES = 2**30
"""Of a run's record, which this program writes itself; that of 100 000 stages has 51 MB."""


class Note(Protocol):
    """Keeps what a stage has come to, and what was decided on the way. Called from several threads at once."""

    def __call__(self, stage: str, state: StageState, decisions: Iterable[str] = ()) -> None: ...


class Runs:
    """The runs of a store: `<name>/run.json` each in `folder`, and while one is at work a journal of its changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, record: RunRecord) -> None:
        """Write the record of a run that has not ended as a whole, in place of what it and its journal were before.

        Raises:
            HostFault: it cannot be written.
        """
        with _written(record.run):
            self._save(record)
            (self.folder / record.run / JOURNAL_NAME).unlink(missing_ok=True)

    @contextmanager
    def journal(self, record: RunRecord) -> Iterator[Note]:
        """Write the record as a whole, and yield what notes each change from there on, at the same cost in any run.

        The journal ends with the next `save`; until then `read` gives both together.

        Raises:
            HostFault: it cannot be written; each note raises this, too.
        """
        with _written(record.run):
            journal = Journal(self.folder / record.run / JOURNAL_NAME, self._save(record))

        def note(stage: str, state: StageState, decisions: Iterable[str] = ()) -> None:
            with _written(record.run):
                journal.add(stage, state, decisions)

        try:
            yield note
        finally:
            journal.close()

    def _save(self, record: RunRecord) -> Sha256:
        """Write the record, and return its seal."""
        folder = self.folder / record.run
        self.folder.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        document = versioned.sealed(record.model_dump(mode="json"))
        write_atomically(folder / RUN_NAME, to_json(document, indent=1))
        return str(document[versioned.SEAL])

    def read(self, name: str) -> RunRecord:
        """The run with exactly this name, upgraded to this version.

        Raises:
            Unreadable: what is stored is damaged, or of a version that this program does not know.
        """
        path = self.folder / name / RUN_NAME
        hint = (
            f"run its manifest again, which begins another record; `orchestrator clean --run {name}` forgets this one"
        )
        return versioned.read(f"{self.folder.name}/{name}", lambda: _run(path), hint=hint)

    def stamp(self, name: str) -> object:
        """What is another one as soon as the run's record is; None where there is none."""
        path = self.folder / name / RUN_NAME
        try:
            record = _identity(path)
        except OSError:
            return None
        try:
            return record, _identity(path.with_name(JOURNAL_NAME))
        except OSError:
            return record

    def load(self, wanted: str) -> RunRecord:
        """A run by its name, an unambiguous beginning of it, or `last`: of those that can be read, the last at work.

        Raises:
            StoreError: there is none, or several begin so.
            Unreadable: it is there and cannot be read.
        """
        if wanted != "last":
            return self.read(self.name(wanted))
        readable = []
        for name in self.names():
            with suppress(Unreadable):
                readable.append(self.read(name))
        if not readable:
            raise self._none(f"there is no run {wanted!r}")
        return max(readable, key=lambda record: record.updated)

    def name(self, wanted: str) -> str:
        """The name that is meant by a name or an unambiguous beginning of it, readable or not. Raises `StoreError`."""
        names = self.names()
        found = [one for one in names if one == wanted] or [one for one in names if one.startswith(wanted)]
        if len(found) != 1:
            raise self._none(f"{len(found)} runs begin with {wanted!r}" if found else f"there is no run {wanted!r}")
        return found[0]

    def _none(self, problem: str) -> StoreError:
        return StoreError(f"{problem} in {self.folder.parent}", hint=f"runs: {', '.join(self.names()) or 'none yet'}")

    def names(self) -> list[str]:
        """In the order of their names, which is that of their numbers where the manifest is the same."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{RUN_NAME}"))


@contextmanager
def _written(run: str) -> Iterator[None]:
    """Say of an OSError within that the run's record cannot be written. Raises `HostFault`."""
    try:
        yield
    except OSError as failure:
        fault = host_fault(failure)
        problem = f"the record of run {run} cannot be written: {fault.message}"
        raise type(fault)(problem, hint=fault.hint) from failure


def _run(path: Path) -> RunRecord:
    """A stored run; raises what `versioned.read` makes a reason of."""
    content, journal = _both(path)
    stored = versioned.parse(content)
    seal = stored.get(versioned.SEAL)
    if seal is not None:  # records had no seal at first
        stored = versioned.unsealed(stored)
        if journal:
            replay(stored, seal, journal)
    document = versioned.upgraded(stored, RUN_UPGRADES, RUN_VERSION)
    record = RunRecord.model_validate(document, extra="ignore")
    if record.run != path.parent.name:
        raise ValueError(f"it is the record of {record.run}")
    return record


def _both(path: Path) -> tuple[bytes, bytes]:
    """A record and its journal, of one instant: whoever is at work may write both anew meanwhile."""
    while True:
        before = _identity(path)
        content, journal = read_regular(path, MOST_RECORD_BYTES), b""
        with suppress(FileNotFoundError):
            journal = read_regular(path.with_name(JOURNAL_NAME), MOST_RECORD_BYTES)
        if _identity(path) == before:
            return content, journal


def _identity(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
