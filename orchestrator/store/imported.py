"""Figures of others that a run is shown beside: kept with the run, and no part of anything that is measured.

Each lies in `runs/<run>/imported/<sha256 of the file's content>.json`, sealed as records are. So a file that is
imported twice is there once, and `clean --run` forgets it with the run.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import FiniteFloat, NonNegativeInt

from harness.contract import Frozen, Sha256, read_regular
from orchestrator.errors import HostFault
from orchestrator.host.faults import host_fault
from orchestrator.host.files import write_atomically
from orchestrator.store import versioned
from orchestrator.store.runs import Runs
from orchestrator.store.versioned import Unreadable

FOLDER_NAME = "imported"
VERSION = 1


class ImportedFigure(Frozen):
    """`protocol` is what the file calls the task's version; `items` were asked of `items_available`."""

    task: str
    metric: str
    filter: str
    value: FiniteFloat
    standard_error: FiniteFloat | None = None
    higher_is_better: bool | None = None
    protocol: str | None = None
    shots: NonNegativeInt | None = None
    items: NonNegativeInt | None = None
    items_available: NonNegativeInt | None = None


class Imported(Frozen):
    """One file of results that somebody else's program wrote. `name` is what it calls the model, or the user does."""

    schema_version: Literal[1] = 1
    name: str
    tool: str
    tool_version: str | None = None
    file_name: str
    file_sha256: Sha256
    imported: datetime
    evaluated: datetime | None = None
    figures: tuple[ImportedFigure, ...]


class ImportedResults:
    """The imported results of all runs of a store."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def _folder(self, run: str) -> Path:
        return self._runs.folder / run / FOLDER_NAME

    def keep(self, run: str, results: Imported) -> Path:
        """Write it beside the run's record, in place of what was imported from the same content.

        Raises:
            HostFault: it cannot be written.
        """
        path = self._folder(run) / f"{results.file_sha256}.json"
        document = json.dumps(versioned.sealed(results.model_dump(mode="json")), indent=1, ensure_ascii=False)
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, document)
        except OSError as failure:
            fault = host_fault(failure)
            raise HostFault(f"{path} cannot be written: {fault.message}", hint=fault.hint) from failure
        return path

    def of(self, run: str) -> tuple[Imported, ...]:
        """Those of a run that can be read, in the order of their import."""
        found = [one for one in self._all(run) if isinstance(one, Imported)]
        return tuple(sorted(found, key=lambda one: (one.imported, one.file_sha256)))

    def unreadable(self, run: str) -> tuple[Unreadable, ...]:
        """Those of a run that are damaged, or of a later version."""
        return tuple(one for one in self._all(run) if isinstance(one, Unreadable))

    def _all(self, run: str) -> Iterator[Imported | Unreadable]:
        for path in sorted(self._folder(run).glob("[!.]*.json")):
            try:
                yield self._read(path, f"{self._runs.folder.name}/{run}/{FOLDER_NAME}/{path.name}")
            except Unreadable as unreadable:
                yield unreadable

    def _read(self, path: Path, what: str) -> Imported:
        return versioned.read(what, lambda: _parsed(path), hint=f"delete {path}, and import its file again")


def _parsed(path: Path) -> Imported:
    document = versioned.parse(read_regular(path))
    if versioned.SEAL not in document:
        raise ValueError("it has no seal")
    document = versioned.upgraded(versioned.unsealed(document), {}, VERSION)
    found = Imported.model_validate(document, extra="ignore")
    if found.file_sha256 != path.stem:
        raise ValueError(f"it was imported from a file with the sha256 {found.file_sha256}")
    return found
