"""`images/lock.json`: how each image was made when its results were taken, and whether it would be made so today.

Ids are kept for the record: the same inputs give another id on another machine, since files carry dates. What is
compared is what decides the content: parent, Dockerfile, lock, build arguments, and the Debian packages of the base.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from harness.contract import DeviceKind, Frozen, Sha256
from orchestrator.errors import BadImage
from orchestrator.host.files import write_atomically

RECORD_NAME = "lock.json"
_COMPARED = {
    "parent": "its parent",
    "dockerfile_sha256": "its Dockerfile",
    "lock_sha256": "its lock",
    "packages_sha256": "its Debian packages",
    "build_arguments": "its build arguments",
}


class ImageRecord(Frozen):
    """One built environment, without the harness: that changes often and has its own digest in every result."""

    name: str
    device: DeviceKind | None = None
    parent: str
    dockerfile_sha256: Sha256
    lock_sha256: Sha256 | None = None
    packages_sha256: Sha256 | None = None
    build_arguments: dict[str, str] = {}
    id: str
    recorded: str


class ImagesRecord(Frozen):
    version: Literal[1] = 1
    images: tuple[ImageRecord, ...] = ()

    def find(self, name: str, device: DeviceKind | None) -> ImageRecord | None:
        return next((entry for entry in self.images if (entry.name, entry.device) == (name, device)), None)


def read_record(images: Path) -> ImagesRecord:
    """The committed record; empty where there is none.

    Raises:
        BadImage: the file is not a valid record.
    """
    path = images / RECORD_NAME
    if not path.is_file():
        return ImagesRecord()
    try:
        return ImagesRecord.model_validate_json(path.read_bytes())
    except ValidationError as invalid:
        raise BadImage(f"{path} is not a valid record: {invalid}", hint="write it again with --record") from invalid


def update_record(images: Path, built: ImageRecord) -> None:
    """Replace one image's entry."""
    others = [entry for entry in read_record(images).images if (entry.name, entry.device) != (built.name, built.device)]
    entries = sorted([*others, built], key=lambda entry: (entry.name, entry.device or ""))
    document = ImagesRecord(images=tuple(entries)).model_dump_json(indent=2, exclude_none=True)
    write_atomically(images / RECORD_NAME, document + "\n")


def differences(images: Path, built: ImageRecord) -> tuple[str, ...]:
    """What of `built` is not as recorded, in words; empty when it is the same, or was never recorded."""
    recorded = read_record(images).find(built.name, built.device)
    if recorded is None:
        return ()
    return tuple(
        f"{what} (recorded {_short(was)}, now {_short(now)})"
        for field, what in _COMPARED.items()
        if (was := getattr(recorded, field)) != (now := getattr(built, field))
    )


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == len("0" * 64) else text
