"""What images are made of, as a CycloneDX document: the packages of their locks with hashes, Debian's, and what a fetch
may bring. Made from the project's files alone, so it is the same wherever it is made, and needs nothing that is built.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from uuid import UUID

from harness.contract import DeviceKind, digest_of
from orchestrator.images.base_image import read_record
from orchestrator.images.image import Image, distribution_name
from orchestrator.images.inputs import base_tag, image_tag
from orchestrator.images.vendor_wheels import listed_wheels
from orchestrator.installation import installed_version

SPECIFICATION = "1.6"
"""Of CycloneDX, whose schema tests hold the document against."""
DEBIAN = "debian-12"
_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9][\w.-]*)===?(?P<version>[^\s;\\]+)(?P<rest>.*?)(?=^[A-Za-z0-9]|\Z)", re.M | re.S
)
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")
_KIND, _SAFE_IN_VERSIONS = "llmcbench:kind", ".~-_:"
Document = dict[str, Any]


@dataclass(frozen=True)
class Pin:
    """A package of a lock. Any file with one of the `sha256` is taken for it; of some wheels none is known yet."""

    name: str
    version: str
    sha256: tuple[str, ...] = ()

    @property
    def component(self) -> Document:
        purl = f"pkg:pypi/{distribution_name(self.name)}@{quote(self.version, safe=_SAFE_IN_VERSIONS)}"
        found = {"type": "library", "bom-ref": purl, "name": self.name, "version": self.version, "purl": purl}
        hashes = [{"alg": "SHA-256", "content": one} for one in self.sha256]
        return found | ({"hashes": hashes} if hashes else {})


def pins(lock: str) -> tuple[Pin, ...]:
    """Every package that the text of a lock pins, in its order."""
    return tuple(
        Pin(found["name"], found["version"], tuple(_SHA256.findall(found["rest"]))) for found in _PIN.finditer(lock)
    )


@dataclass
class _Bill:
    """Components by their reference, what each depends on, and those of which not everything is known."""

    components: dict[str, Document] = field(default_factory=dict)
    needs: dict[str, list[str]] = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)

    def add(self, component: Document, needs: Sequence[str] = ()) -> str:
        reference = str(component["bom-ref"])
        known = self.components.setdefault(reference, component)
        if missing := [one for one in component.get("hashes", ()) if one not in known.get("hashes", ())]:
            self.components[reference] = known | {"hashes": [*known.get("hashes", ()), *missing]}
        if needs:
            self.needs[reference] = sorted(set(needs))
        return reference


def bill_of_materials(chosen: Iterable[tuple[Image, DeviceKind]]) -> Document:
    """The document about these images, each for a device.

    Raises:
        BadImage: an image has no lock for its device, or a file of the project is not valid.
    """
    bill = _Bill()
    images = [_image(bill, image, device) for image, device in chosen]
    project = {
        "type": "application",
        "bom-ref": "llmcbench",
        "name": "llmcbench",
        "version": installed_version() or "unknown",
    }
    document: Document = {
        "metadata": {"component": project | {"licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": [bill.components[reference] for reference in sorted(bill.components)],
        "dependencies": [
            {"ref": "llmcbench", "dependsOn": sorted(images)},
            *({"ref": reference, "dependsOn": bill.needs[reference]} for reference in sorted(bill.needs)),
        ],
        "compositions": list(_compositions(bill, images)),
    }
    head = {"bomFormat": "CycloneDX", "specVersion": SPECIFICATION, "version": 1}
    return {**head, "serialNumber": f"urn:uuid:{UUID(digest_of(document)[:32])}", **document}


def _image(bill: _Bill, image: Image, device: DeviceKind) -> str:
    """Add an image with all that is in it; returns its reference."""
    name, _, version = image_tag(image, device).partition(":" if image.description.prebuilt is None else "@")
    container = {"type": "container", "bom-ref": f"{image.name}:{device.value}", "name": name, "version": version}
    container |= {"description": image.description.summary}
    if image.description.prebuilt is not None:
        reference = bill.add(container)
        bill.incomplete.append(reference)
        return reference
    needs = [bill.add(pin.component) for pin in pins(image.lock_text(device))]
    vendor = (Pin(one.project, one.version, (one.sha256,) if one.sha256 else ()) for one in listed_wheels(image))
    needs += [bill.add(pin.component) for pin in vendor]
    needs += [bill.add(one) for one in _may_be_fetched(image)]
    foundation = next((layer.description.foundation for layer in _below(image) if layer.description.foundation), None)
    needs.append(_foundation(bill, foundation) if foundation is not None else _base(bill, image))
    reference = bill.add(container, needs)
    if foundation is not None or any(layer.dockerfile.is_file() for layer in _below(image)):
        bill.incomplete.append(reference)
    return reference


def _below(image: Image) -> Iterator[Image]:
    """The image and those that it builds on."""
    layer: Image | None = image
    while layer is not None:
        yield layer
        layer = layer.parent


def _base(bill: _Bill, image: Image) -> str:
    """The base image, with the Debian packages of its record; without one nothing is known of them."""
    name, _, version = base_tag(image.project).partition(":")
    record = read_record(image.project)
    container = {"type": "container", "bom-ref": "base", "name": name, "version": version}
    if record is None:
        bill.incomplete.append("base")
        return bill.add(container)
    needs = []
    for package, its_version in record.packages.items():
        purl = f"pkg:deb/debian/{quote(package)}@{quote(its_version, safe=_SAFE_IN_VERSIONS)}?distro={DEBIAN}"
        component = {"type": "library", "bom-ref": purl, "name": package, "version": its_version, "purl": purl}
        needs.append(bill.add(component))
    return bill.add(container | {"description": record.origin}, needs)


def _foundation(bill: _Bill, name: str) -> str:
    """A vendor's image, of which nothing but the name is known."""
    place, _, version = name.rpartition(":")
    reference = bill.add({"type": "container", "bom-ref": f"foundation:{name}", "name": place, "version": version})
    bill.incomplete.append(reference)
    return reference


def _may_be_fetched(image: Image) -> Iterator[Document]:
    """Models and data sets that an image knows by their revision; they are in no image."""
    for model in image.description.models:
        parts = [Pin(wheel.package, wheel.version, (wheel.sha256,)).component for wheel in model.wheels]
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"model:{model.requirement}",
            "name": model.package,
            "version": model.version,
            "scope": "optional",
            "components": [part | {"bom-ref": f"model:{part['bom-ref']}"} for part in parts],
        }
    for dataset in image.description.datasets:
        yield {
            "type": "data",
            "bom-ref": f"data:{dataset.name}",
            "name": dataset.hub_repository or dataset.name,
            "version": dataset.hub_revision or "",
            "scope": "optional",
        }


def _compositions(bill: _Bill, images: Sequence[str]) -> Iterator[Document]:
    incomplete = sorted(set(bill.incomplete))
    complete = sorted({*images, *bill.needs} - set(incomplete))
    for aggregate, references in (("complete", complete), ("incomplete", incomplete)):
        if references:
            yield {"aggregate": aggregate, "dependencies": references}
