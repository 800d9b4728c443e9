"""What a plan needs of the device it is to run on: an image for that kind, and a driver that is new enough."""

from orchestrator.errors import BadManifest
from orchestrator.host.devices import ChosenDevice
from orchestrator.images.catalog import ImageCatalog
from orchestrator.stages import Plan


def check_device(plan: Plan, catalog: ImageCatalog, chosen: ChosenDevice) -> None:
    """Refuse, before anything is fetched, a plan that an image or the driver cannot do.

    Raises:
        BadManifest: a stage's image has not been made for its device kind, or needs a newer NVIDIA driver.
    """
    for stage in plan.stages:
        image, kind = catalog.images[stage.image], stage.device.kind
        if kind not in image.description.devices:
            here = " and ".join(one.value for one in image.description.devices)
            raise BadManifest(
                f"{stage.id}: the image {image.name!r} does not run on {kind.value}, but on {here}",
                hint=f"choose the device {here} for the whole run, or leave this entry out of the manifest",
            )
        if kind is not chosen.device.kind or chosen.driver is None:
            continue
        minimum = catalog.minimum_driver(image)
        if minimum is not None and older(chosen.driver, minimum):
            raise BadManifest(
                f"{stage.id}: the image {image.name!r} needs NVIDIA driver {minimum} or newer,"
                f" and this machine has {chosen.driver}",
                hint="install a newer driver, or run on the CPU (DEVICE=cpu)",
            )


def older(driver: str, minimum: str) -> bool:
    return version_numbers(driver) < version_numbers(minimum)


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparing: `580.65.06` is (580, 65, 6)."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
