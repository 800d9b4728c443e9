"""The documents of an artifact laid out in a folder, through the guarded reader; of weights and source, which nothing
reads, their checksums alone."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.contract import DESCRIPTOR_NAME
from orchestrator.artifact.archive import SUMS_NAME, BadArchive, Packed, read, read_sums
from orchestrator.artifact.contents import SOURCE_FOLDER, STORE_FOLDER
from orchestrator.errors import OrchestratorError
from orchestrator.host.scratch import own_scratch

MOST_DOCUMENT_BYTES = 2**30
MOST_DOCUMENTS_BYTES = 2**33
"""Of all documents together, which are laid out on disk; those of the largest run have some hundred MB."""
ARTIFACTS_FOLDER = f"{STORE_FOLDER}/artifacts/"


class NoArtifact(OrchestratorError):
    """There is no file to look at."""


@dataclass(frozen=True)
class Unpacked:
    """`digests` has the sha256 of every file but the checksums, `stated` what those say. Weights and source are not in
    `folder`.

    `broken` is why the file was not read to its end, None where it was.
    """

    folder: Path
    digests: Mapping[str, str]
    stated: Mapping[str, str]
    size_bytes: int
    broken: str | None = None

    def has(self, name: str) -> bool:
        return name in self.digests


@contextmanager
def unpacked(file: Path) -> Iterator[Unpacked]:
    """Lay out what can be read, for as long as it is looked at.

    Raises:
        NoArtifact: there is no such file, or it cannot be read.
    """
    digests: dict[str, str] = {}
    stated: dict[str, str] = {}
    with own_scratch() as folder:
        broken = None
        size_bytes = 0
        try:
            size_bytes = file.stat().st_size
            held = 0
            for one in read(file):
                if one.name == SUMS_NAME:
                    stated = read_sums(one.content() if one.size_bytes <= MOST_DOCUMENT_BYTES else b"")
                    continue
                held += _size(one, held) if _is_document(one.name) else 0
                digests[one.name] = _lay_out(one.chunks, folder / one.name if _is_document(one.name) else None)
        except BadArchive as bad:
            broken = bad.message
        except OSError as failure:
            raise NoArtifact(
                f"{file} cannot be read: {failure.strerror or failure}", hint="name an artifact"
            ) from failure
        yield Unpacked(folder, digests, stated, size_bytes, broken)


def _is_document(name: str) -> bool:
    is_weights = name.startswith(ARTIFACTS_FOLDER) and not name.endswith(f"/{DESCRIPTOR_NAME}")
    return not is_weights and not name.startswith(f"{SOURCE_FOLDER}/")


def _size(one: Packed, held: int) -> int:
    if one.size_bytes > MOST_DOCUMENT_BYTES or held + one.size_bytes > MOST_DOCUMENTS_BYTES:
        raise BadArchive(f"{one.name} is larger than any document of a run")
    return one.size_bytes


def _lay_out(chunks: Iterator[bytes], path: Path | None) -> str:
    digest = hashlib.sha256()
    if path is None:
        for chunk in chunks:
            digest.update(chunk)
        return digest.hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as out:
        for chunk in chunks:
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()
