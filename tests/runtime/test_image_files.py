"""The committed files of `images/`: locks, Dockerfiles, and the record of what was built from them."""

import re
import shutil
from pathlib import Path

import pytest

from harness.contract import DeviceKind, digest_file
from orchestrator.errors import BadImage
from orchestrator.images.base_image import BASE_TAG, BaseRecord, differences, read_record, write_record
from orchestrator.images.builds import environment_inputs, image_inputs
from orchestrator.images.catalog import Image, ImageCatalog
from orchestrator.images.engine import Build, build
from orchestrator.images.locking import lock_image
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.staging import copy_harness, pinned_wheels, stage_context
from tests.support.containers import engine_or_skip

PROJECT = Path(__file__).parents[2]
IMAGES = PROJECT / "images"
CATALOG = ImageCatalog(IMAGES)
LOCKS = [(image, device) for image in CATALOG.images.values() for device in image.description.devices]
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


def pins(image: Image, device: DeviceKind) -> dict[str, str]:
    return dict(PIN.findall(image.lock(device).read_text()))


RECORD = BaseRecord(origin="debootstrap bookworm", packages={"bash": "5.2", "dash": "0.5"}, recorded="2026-01-01")


@pytest.mark.parametrize(("image", "device"), LOCKS, ids=lambda value: getattr(value, "name", None) or value.value)
def test_every_pin_of_a_lock_has_a_hash_and_no_line_says_where_from(image, device):
    requirements = image.lock(device).read_text().replace("\\\n", " ").splitlines()

    assert requirements
    for line in requirements:
        assert re.fullmatch(r"[a-z0-9._-]+==\S+(\s+;[^#]*)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", line), line


@pytest.mark.parametrize("device", DeviceKind)
def test_images_of_one_layer_that_share_a_package_share_its_version(device):
    versions: dict[str, set[str]] = {}
    torch = CATALOG.images["torch"]
    for image in (one for one in CATALOG.images.values() if torch in one.layers):
        for name, version in pins(image, device).items() if device in image.description.devices else ():
            versions.setdefault(name, set()).add(version)

    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("device", DeviceKind)
def test_a_lock_repeats_its_parents(device):
    for image in CATALOG.images.values():
        if image.parent is not None and device in image.description.devices:
            assert pins(image.parent, device).items() <= pins(image, device).items()


def test_no_two_images_have_equal_locks_of_their_own():
    for device in DeviceKind:
        locks = [image.lock_digest(device) for image, one in LOCKS if one is device and image.layers[-1] is image]
        assert len(locks) == len(set(locks))


def test_an_image_without_requirements_has_its_parents_lock(copy):
    gptq, parent = copy["gptq"], copy["torch-transformers"]
    assert gptq.lock(DeviceKind.CPU) == parent.lock(DeviceKind.CPU)
    assert [layer.name for layer in gptq.layers] == ["torch", "torch-transformers"]

    (gptq.folder / "requirements.in").write_text("numpy\n")

    assert [layer.name for layer in gptq.layers] == ["torch", "torch-transformers", "gptq"]
    with pytest.raises(BadImage, match="image 'gptq' has no lock for cpu") as raised:
        gptq.lock_digest(DeviceKind.CPU)
    assert "images lock gptq" in raised.value.hint


@pytest.mark.parametrize(
    ("parent", "problem"), [("torhc", "builds on 'torhc', which does not exist"), ("gptq", "builds on itself")]
)
def test_a_parent_that_cannot_be_one_is_refused(copy, parent, problem):
    path = copy["torch-transformers"].description_path
    path.write_text(path.read_text().replace('parent = "torch"', f'parent = "{parent}"'))

    with pytest.raises(BadImage, match=problem):
        ImageCatalog(path.parents[1])


def test_each_device_has_its_build_of_torch():
    for image, device in LOCKS:
        if image.description.foundation is not None:
            assert "torch" not in pins(image, device)  # the vendor's image has its own
            continue
        libraries = {name for name in pins(image, device) if name.startswith("nvidia-")}
        if device is DeviceKind.CPU:
            assert pins(image, device)["torch"].endswith("+cpu")
            assert libraries <= {"nvidia-ml-py"}
        else:
            assert "+" not in pins(image, device)["torch"]
            assert libraries - {"nvidia-ml-py"}


@pytest.mark.parametrize(
    "name", [image.name for image, device in LOCKS if device is DeviceKind.CUDA and "triton" in pins(image, device)]
)
def test_an_image_with_triton_has_the_compilers_that_it_calls(name: str) -> None:
    """Its own Dockerfile, or that of the layer below, installs them, and none removes them again."""
    image = CATALOG.images[name]
    files = [one.dockerfile.read_text(encoding="utf-8") for one in image.layers]
    assert any("if grep -q '^triton==' /build/lock.txt; then" in text and "g++" in text for text in files)
    unconditional = re.compile(r"&& apt-get purge [^&]*\b(gcc|g\+\+|libc6-dev|python3\.11-dev)")
    assert not any(unconditional.search(text) for text in files)


def test_a_base_image_as_recorded_differs_in_nothing(tmp_path):
    (tmp_path / "base").mkdir()
    write_record(tmp_path, RECORD)

    assert read_record(tmp_path) == RECORD
    assert differences(RECORD, RECORD.model_copy(update={"recorded": "2026-02-02"})) == ()


def test_debian_packages_that_came_went_or_changed_are_named():
    built = RECORD.model_copy(update={"packages": {"bash": "5.3", "perl": "5.36"}})

    assert differences(RECORD, built) == (
        "bash 5.3 instead of 5.2",
        "dash is missing instead of 0.5",
        "perl 5.36 instead of none",
    )


def test_a_damaged_record_is_refused(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "lock.json").write_text("{")

    with pytest.raises(BadImage, match="not a valid record"):
        read_record(tmp_path)


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(IMAGES, tmp_path / "images")
    return ImageCatalog(tmp_path / "images").images


@pytest.mark.parametrize("path", ["torch/Dockerfile", "torch/locks/cpu.txt", "base/install-lock", "fetch/Dockerfile"])
def test_a_change_below_an_image_makes_its_environment_another(copy, path):
    before = environment_inputs(copy["fetch"], DeviceKind.CPU)
    file = copy["fetch"].folder.parent / path
    file.write_text(file.read_text() + "\n")

    assert environment_inputs(copy["fetch"], DeviceKind.CPU) != before


def test_a_change_of_the_description_rebuilds_the_image_but_not_its_environment(copy):
    image = copy["torch"]
    environment, whole = environment_inputs(image, DeviceKind.CPU), image_inputs(image, DeviceKind.CPU)
    image.description_path.write_text(image.description_path.read_text() + "\n")

    assert environment_inputs(image, DeviceKind.CPU) == environment
    assert image_inputs(image, DeviceKind.CPU) != whole


def test_locking_without_the_parents_lock_says_what_to_lock_first(copy):
    copy["torch"].lock(DeviceKind.CPU).unlink()

    with pytest.raises(BadImage, match="'torch', on which image 'fetch' builds, has no lock for cpu") as raised:
        lock_image(copy["fetch"], DeviceKind.CPU)
    assert "images lock torch" in raised.value.hint


def test_a_build_context_holds_the_harness_the_lock_and_the_pinned_wheels(copy, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wanted, other = wheels / "torch-2.13.0+cpu-py3-none-any.whl", wheels / "torch-1.0-py3-none-any.whl"
    wanted.write_bytes(b"a wheel")
    other.write_bytes(b"another")
    image, sources = copy["torch"], PackageSources(find_links=(str(wheels),))
    image.lock(DeviceKind.CPU).write_text(f"torch==2.13.0+cpu --hash=sha256:{digest_file(wanted)}\n")
    context = tmp_path / "context"
    context.mkdir()

    stage_context(image, DeviceKind.CPU, context, sources)

    assert pinned_wheels(image.lock(DeviceKind.CPU).read_text(), sources) == [wanted]
    assert [path.name for path in (context / "wheels").iterdir()] == [wanted.name]
    assert (context / "lock.txt").read_text() == image.lock(DeviceKind.CPU).read_text()
    assert (context / "harness" / "serve.py").is_file()
    assert not (context / "locks").exists()


def test_the_staged_harness_has_sources_alone(tmp_path):
    copy_harness(tmp_path / "harness")

    assert (tmp_path / "harness" / "contract" / "__init__.py").is_file()
    assert {path.suffix for path in (tmp_path / "harness").rglob("*") if path.is_file()} <= {
        ".py",
        ".yaml",
        ".toml",
        ".json",
    }


@pytest.mark.docker
def test_a_failing_build_ends_with_what_the_builder_printed_last(tmp_path):
    engine_or_skip()
    (tmp_path / "Dockerfile").write_text(
        f"FROM {BASE_TAG}\nRUN echo 'No matching distribution found for torch==2.13.0+cpu' && false\n"
    )

    with pytest.raises(BadImage, match="No matching distribution found for torch") as raised:
        build(Build(context=tmp_path, tag="llmcbench/failing:cpu", build_arguments={}, labels={}))
    assert "find-links" in raised.value.hint


@pytest.mark.docker
def test_a_build_secret_is_seen_by_its_step_and_stays_out_of_the_image(tmp_path):
    client = engine_or_skip()
    context, secret = tmp_path / "context", tmp_path / "secret"
    context.mkdir()
    secret.write_text("index with a password")
    (context / "Dockerfile").write_text(
        f"FROM {BASE_TAG}\nRUN --mount=type=secret,id=pip.conf wc -c < /run/secrets/pip.conf > /seen\n"
    )

    build(
        Build(context=context, tag="llmcbench/secret:cpu", build_arguments={}, labels={}, secrets={"pip.conf": secret})
    )

    show = ["sh", "-c", "cat /seen; ls /run/secrets"]
    assert client.containers.run("llmcbench/secret:cpu", show, remove=True, network_mode="none").split() == [b"21"]
    client.images.remove("llmcbench/secret:cpu")
