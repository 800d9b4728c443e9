"""One image description that offers what all images of this project offer, for workers that run in a test's process."""

import tomllib
from pathlib import Path

from harness.contract import DeviceKind, ImageDescription, Operation

IMAGES = Path(__file__).parents[2] / "images"


def write_every_image(path: Path) -> None:
    """Write it as an `image.toml`."""
    operations, devices = ([f'"{one.value}"' for one in kind] for kind in (Operation, DeviceKind))
    head = (
        'name = "everything"\nsummary = "What all images offer"\n'
        f"operations = [{', '.join(operations)}]\ndevices = [{', '.join(devices)}]\n"
    )
    described = [one.read_text(encoding="utf-8") for one in sorted(IMAGES.glob("*/image.toml"))]
    path.write_text("\n".join([head, *(text[text.find("[[") :] for text in described if "[[" in text)]), "utf-8")


def described_images() -> dict[str, ImageDescription]:
    """Each image's description, by its name."""
    paths = sorted(IMAGES.glob("*/image.toml"))
    return {
        path.parent.name: ImageDescription.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        for path in paths
    }
