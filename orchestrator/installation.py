"""Where this installation keeps what comes with it: images, manifests. The same in a checkout and from a wheel.

In a checkout `images/` and `manifests/` lie beside the two packages; a wheel carries both in `orchestrator/shipped/`.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.contract import unknown
from orchestrator.errors import BadManifest

DISTRIBUTION = "llmcbench"
_PACKAGE = Path(__file__).parent
_MANIFEST_SUFFIX = ".yaml"
PAPER_CLAIMS = "paper"
"""The file of claims that every report judges."""


def installed_version() -> str | None:
    """The installed version of this program; None where it is run from a folder without being installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return None


def shipped_folder() -> Path:
    """The folder that holds `images/` and `manifests/`."""
    return _PACKAGE.parent if is_checkout() else _PACKAGE / "shipped"


def is_checkout() -> bool:
    return not (_PACKAGE / "shipped").is_dir()


def default_data_folder() -> Path | None:
    """`data/` in the checkout, where it is there: the folder of local data sets that no variable has to name."""
    folder = _PACKAGE.parent / "data"
    return folder if is_checkout() and folder.is_dir() else None


def shipped_images() -> Path:
    return shipped_folder() / "images"


def shipped_manifests() -> dict[str, Path]:
    """The manifests that come with the project, by name."""
    return {path.stem: path for path in sorted((shipped_folder() / "manifests").glob(f"*{_MANIFEST_SUFFIX}"))}


def shipped_claims() -> dict[str, Path]:
    """The files of claims that come with the project, by name."""
    folder = shipped_folder() / "manifests" / "claims"
    return {path.stem: path for path in sorted(folder.glob(f"*{_MANIFEST_SUFFIX}"))}


def find_manifest(given: Path) -> Path:
    """The file at this path, or else the manifest that comes with the project under this name, such as `quick`.

    Raises:
        BadManifest: there is neither.
    """
    return _find(given, "manifest", shipped_manifests())


def find_claims(given: Path) -> Path:
    """The file at this path, or else the claims that come with the project under this name, such as `paper`.

    Raises:
        BadManifest: there is neither.
    """
    return _find(given, "file of claims", shipped_claims())


def _find(given: Path, what: str, shipped: dict[str, Path]) -> Path:
    if given.is_file() or given.suffix or len(given.parts) > 1:
        return given  # whoever reads it says what is wrong with it
    if given.name not in shipped:
        raise BadManifest(
            unknown(what, given.name, shipped),
            hint=f"give the path of a file, or one that comes with the project: {', '.join(shipped)}",
        )
    return shipped[given.name]
