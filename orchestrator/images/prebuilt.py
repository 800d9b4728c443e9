"""Images that come ready made: named by digest in `image.toml`, pulled where the engine does not have them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.errors import BadImage
from orchestrator.images.engine import builder_command, run_command
from orchestrator.images.image import Image

if TYPE_CHECKING:
    from docker import DockerClient


def find_prebuilt(client: "DockerClient", reference: str) -> str | None:
    """The engine's id of the image that `prebuilt` names; None where the engine does not have it."""
    from docker.errors import ImageNotFound

    try:
        return str(client.images.get(reference).id)
    except ImageNotFound:
        return None


def have_prebuilt(client: "DockerClient", image: Image, reference: str, note: Callable[[str], None]) -> str:
    """The engine's id of a prebuilt image, pulled unless it is there.

    Raises:
        BadImage: it is neither here nor in a registry that answers.
    """
    found = find_prebuilt(client, reference)
    if found is None and "@" in reference:
        note(f"pulling {reference}")
        run_command([builder_command(), "pull", reference], note)
        found = find_prebuilt(client, reference)
    if found is None:
        where = "cannot be pulled" if "@" in reference else "is not an image of this engine"
        raise BadImage(
            f"image {image.name!r} is {reference}, which {where}",
            hint=f"pull or load it, or mend `prebuilt` in {image.description_path}",
        )
    return found
