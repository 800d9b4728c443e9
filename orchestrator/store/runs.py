"""The records of runs by their names."""

import json
from contextlib import suppress
from pathlib import Path

from harness.contract import read_regular
from orchestrator.errors import HostFault, StoreError
from orchestrator.host.faults import host_fault
from orchestrator.host.files import write_atomically
from orchestrator.store import versioned
from orchestrator.store.records import RunRecord
from orchestrator.store.upgrades import RUN_UPGRADES, RUN_VERSION
from orchestrator.store.versioned import Unreadable

RUN_NAME = "run.json"
MOST_RECORD_BYTES = 2**30
"""Of a run's record, which this program writes itself; that of 100 000 stages has 51 MB."""


class Runs:
    """The runs of a store: `<name>/run.json` each in `folder`, written anew as a run goes on until it has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, record: RunRecord) -> None:
        """Write the record of a run that has not ended, in place of what it was before.

        Raises:
            HostFault: it cannot be written.
        """
        folder = self.folder / record.run
        try:
            self.folder.mkdir(exist_ok=True)
            folder.mkdir(exist_ok=True)
            document = json.dumps(versioned.sealed(record.model_dump(mode="json")), indent=1, ensure_ascii=False)
            write_atomically(folder / RUN_NAME, document)
        except OSError as failure:
            fault = host_fault(failure)
            problem = f"the record of run {record.run} cannot be written: {fault.message}"
            raise HostFault(problem, hint=fault.hint) from failure

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


def _run(path: Path) -> RunRecord:
    """A stored run; raises what `versioned.read` makes a reason of."""
    stored = versioned.parse(read_regular(path, MOST_RECORD_BYTES))
    if versioned.SEAL in stored:  # records had no seal at first
        stored = versioned.unsealed(stored)
    document = versioned.upgraded(stored, RUN_UPGRADES, RUN_VERSION)
    record = RunRecord.model_validate(document, extra="ignore")
    if record.run != path.parent.name:
        raise ValueError(f"it is the record of {record.run}")
    return record
