"""Where data sets come from: a local copy, else the hub, else a Python package, else the substitute allowed for it.

Which data sets there are, and where each keeps its rows, is data in the fetch image's `image.toml`.
"""

from dataclasses import dataclass

from harness.checkpoint import publish
from harness.contract import DatasetDescription, DatasetDescriptor, DatasetSource, FileEntry, LogLevel
from harness.errors import BadRequest, MissingData
from harness.fetch.rows import write_rows
from harness.fetch.supply import LOCAL, Delivery, from_hub, from_local, from_package, require_splits
from harness.fetch.workspace import Workspace
from harness.operations import describe_image
from harness.reporter import Reporter


@dataclass(frozen=True)
class _Wanted:
    """The data set asked for, and the one that may stand in for it."""

    asked: DatasetDescription
    substitute: DatasetDescription | None

    @property
    def candidates(self) -> tuple[DatasetDescription, ...]:
        return (self.asked,) if self.substitute is None else (self.asked, self.substitute)


def fetch_dataset(source: DatasetSource, workspace: Workspace, reporter: Reporter) -> DatasetDescriptor:
    """Publish the rows of the data set, from the first source that has any.

    Raises:
        BadRequest: the name is unknown, or a local file is missing or has another sha256 than the request says.
        MissingData: no source has it, with the splits that are needed.
    """
    wanted = _look_up(source)
    delivered, delivery = _obtain(wanted, source, workspace, reporter)
    rows = {}
    for done, (split, content) in enumerate(delivery.rows.items(), start=1):
        rows[split] = write_rows(content, workspace.staging / f"{split}.jsonl.gz")
        reporter.progress(done, len(delivery.rows), "splits")
    notes = _notes(wanted, delivered, delivery)

    def make(files: dict[str, FileEntry]) -> DatasetDescriptor:
        return DatasetDescriptor(files=files, notes=notes, name=delivered.name, origin=delivery.origin, rows=rows)

    return publish(workspace.staging, workspace.artifact, make)


def _look_up(source: DatasetSource) -> _Wanted:
    known = {description.name: description for description in describe_image().datasets}
    for name in (source.name, source.substitute):
        if name is not None and name not in known:
            raise BadRequest(f"no data set is called {name!r}", hint=f"known: {', '.join(sorted(known))}")
    wanted = _Wanted(known[source.name], known[source.substitute] if source.substitute else None)
    places = {split.local for description in wanted.candidates for split in description.splits.values()}
    strangers = sorted(source.files.keys() - places)
    if strangers:
        raise BadRequest(
            f"{strangers[0]} is no file of the data set {source.name!r}", hint=f"its files: {', '.join(sorted(places))}"
        )
    return wanted


def _obtain(
    wanted: _Wanted, source: DatasetSource, workspace: Workspace, reporter: Reporter
) -> tuple[DatasetDescription, Delivery]:
    failures = []
    for description in wanted.candidates:
        needed = source.splits if description is wanted.asked else _texts(description)
        if any(split.local in source.files for split in description.splits.values()):
            local = from_local(description, source.files, workspace.require_source(), reporter)
            require_splits(local.rows, needed, f"{description.name}: the local files have")
            return description, local
        failures.append(f"{description.name}: no local files given")
        for supply in (from_hub, from_package):
            try:
                return description, supply(description, needed, workspace, reporter)
            except MissingData as failure:
                failures.append(f"{description.name}: {failure.message}")
                reporter.log(f"{failure.message}; {failure.hint}", LogLevel.WARNING)
    files = ", ".join(split.local for split in wanted.asked.splits.values())
    raise MissingData(
        f"the data set {source.name!r} cannot be had from any source ({'; '.join(failures)})",
        hint=f"set LLMCBENCH_DATA to a folder that holds {files}, or give this machine access to the hub",
    )


def _texts(description: DatasetDescription) -> tuple[str, ...]:
    """What is needed of a substitute: text to calibrate on."""
    return () if description.calibration_split is None else (description.calibration_split,)


def _notes(wanted: _Wanted, delivered: DatasetDescription, delivery: Delivery) -> tuple[str, ...]:
    absent = [split for split in delivered.splits if split not in delivery.rows]
    notes = []
    if delivery.origin == LOCAL:
        parts = {split: place.local_part for split, place in delivered.splits.items() if split in delivery.rows}
        notes += [f"{split}: the local file holds {part}" for split, part in parts.items() if part]
    if delivered is not wanted.asked:
        notes.append(f"{delivered.name} stands in for {wanted.asked.name}, which no source had")
    if absent:
        notes.append(f"the source has no split {', '.join(absent)}")
    return tuple(notes)
