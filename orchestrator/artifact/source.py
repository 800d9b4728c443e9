"""The source and the images that a run was made with: of its commit where this checkout has it, else as they are."""

import io
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.contract import harness_folder
from orchestrator.artifact.contents import IMAGES_FOLDER, SOURCE_FOLDER
from orchestrator.errors import StoreError
from orchestrator.images.image import Image
from orchestrator.installation import is_checkout, shipped_images

_COMMIT = re.compile(r"[0-9a-f]{40}")
_GIT_SECONDS = 60.0
_LEFT_OUT = {"__pycache__", ".DS_Store"}


@dataclass(frozen=True)
class SourceFiles:
    """Files by their names in an artifact, and where they come from."""

    files: Mapping[str, bytes]
    origin: str


def source_files(commit: str | None, own_images: Iterable[Image], harness_of: str | None = None) -> SourceFiles:
    """The harness and all images. `own_images` are those of a user, which no commit of the project has.

    `harness_of` is a commit to take the harness from, and then no image: where the run's record names none that is
    whole, and this version may not be able to read the images of that time.

    Raises:
        StoreError: there is no commit `harness_of` here.
        OSError: a file cannot be read.
    """
    own = {name: content for image in own_images for name, content in _folder(image.folder, f"images/{image.name}")}
    if harness_of is not None:
        harness = _of_commit(harness_of)
        if harness is None:
            raise StoreError(f"there is no commit {harness_of} here", hint="name it in full, in a checkout that has it")
        kept = {name: content for name, content in harness.items() if name.startswith(f"{SOURCE_FOLDER}/")}
        images = dict(_folder(shipped_images(), IMAGES_FOLDER))
        return SourceFiles({**kept, **images, **own}, f"commit {harness_of}, the images of this installation")
    if (of_commit := _of_commit(commit)) is not None:
        return SourceFiles({**of_commit, **own}, f"commit {commit}")
    here = {
        **dict(_folder(harness_folder(), f"{SOURCE_FOLDER}/{harness_folder().name}")),
        **dict(_folder(shipped_images(), IMAGES_FOLDER)),
    }
    return SourceFiles({**here, **own}, "this installation")


def _folder(folder: Path, name: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _LEFT_OUT & set(path.parts) and path.suffix != ".pyc":
            yield f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _of_commit(commit: str | None) -> dict[str, bytes] | None:
    """None where the commit is unknown, was changed when the run was made, or is not to be had here."""
    project = harness_folder().parent
    if commit is None or not _COMMIT.fullmatch(commit) or not is_checkout() or not (project / ".git").exists():
        return None
    command = ["git", "-C", str(project), "archive", "--format=tar", commit, "harness", "images"]
    try:
        packed = subprocess.run(command, capture_output=True, timeout=_GIT_SECONDS, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as tree:
        for entry in tree:
            if entry.isreg() and (file := tree.extractfile(entry)) is not None:
                top, _, below = entry.name.partition("/")
                folder = IMAGES_FOLDER if top == "images" else f"{SOURCE_FOLDER}/{top}"
                found[f"{folder}/{below}"] = file.read()
    return found
