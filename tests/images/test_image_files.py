"""The committed files of `images/`: locks, Dockerfiles, and the record of what was built from them."""

import os
import re
import shutil
from pathlib import Path

import pytest

from harness.contract import DeviceKind
from orchestrator.errors import BadImage
from orchestrator.images.base_image import BaseRecord, differences, read_record, write_record
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.engine import Build, build
from orchestrator.images.image import Image
from orchestrator.images.inputs import (
    all_tags,
    build_digest,
    container_identity,
    copied_files,
    environment_digest,
    environment_dockerfile,
    environment_tag,
    image_tag,
    process_identity,
)
from orchestrator.images.locking import lock_image
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.staging import copy_harness, pinned_wheels, stage_environment, stage_worker
from tests.support.containers import BASE_TAG, engine_or_skip
from tests.support.package_index import PackageIndex

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


@pytest.mark.parametrize(("image", "device"), LOCKS, ids=lambda value: getattr(value, "name", None) or value.value)
def test_every_lock_has_what_the_requirements_name(image, device):
    own = image.folder / f"requirements-{device.value}.in"
    path = own if own.is_file() else image.folder / "requirements.in"
    named = re.findall(r"^[A-Za-z0-9._-]+", path.read_text(), re.MULTILINE) if path.is_file() else []
    asked = {name.lower().replace("_", "-") for name in named}

    assert asked - pins(image, device).keys() == set()


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
    files = [environment_dockerfile(one).read_text(encoding="utf-8") for one in image.layers]
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


def test_the_committed_record_names_python():
    recorded = read_record(IMAGES)

    assert recorded is not None
    assert recorded.packages["python3.11"].startswith("3.11.")


def test_a_damaged_record_is_refused(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "lock.json").write_text("{")

    with pytest.raises(BadImage, match="not a valid record"):
        read_record(tmp_path)


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(IMAGES, tmp_path / "images")
    return ImageCatalog(tmp_path / "images").images


@pytest.mark.parametrize(
    "path",
    ["torch/Dockerfile", "torch/locks/cpu.txt", "base/Dockerfile", "base/install-lock", "base/environment.Dockerfile"],
)
def test_a_change_below_an_image_makes_its_environment_and_its_identity_another(copy, path):
    image = copy["fetch"]
    before = environment_digest(image, DeviceKind.CPU), container_identity(image, DeviceKind.CPU, None)
    file = image.project / path
    file.write_text(file.read_text() + "\n")

    now = environment_digest(image, DeviceKind.CPU), container_identity(image, DeviceKind.CPU, None)
    assert all(one != other for one, other in zip(before, now, strict=True))


def test_a_change_of_the_description_rebuilds_the_image_but_leaves_environment_and_identity(copy):
    image = copy["gptq"]

    def look():
        return (
            environment_digest(image, DeviceKind.CPU),
            container_identity(image, DeviceKind.CPU, None),
            build_digest(image, DeviceKind.CPU),
        )

    before = look()
    image.description_path.write_text(image.description_path.read_text() + "\n")

    assert look()[:2] == before[:2]
    assert look()[2] != before[2]


def test_a_change_of_the_harness_rebuilds_the_image_but_leaves_its_identity(copy, monkeypatch):
    image = copy["gptq"]
    before = container_identity(image, DeviceKind.CPU, None), image_tag(image, DeviceKind.CPU)
    monkeypatch.setattr("orchestrator.images.inputs.harness_digest", lambda: "0" * 64)

    assert container_identity(image, DeviceKind.CPU, None) == before[0]
    assert image_tag(image, DeviceKind.CPU) != before[1]


def test_the_debian_packages_and_the_device_are_part_of_an_identity(copy):
    image = copy["gptq"]
    identities = {
        container_identity(image, device, packages) for device in DeviceKind for packages in (None, "a" * 64, "b" * 64)
    }
    assert len(identities) == 6


def test_a_data_set_described_otherwise_leaves_the_identity_to_the_keys_of_fetches(copy):
    path = copy["fetch"].description_path
    path.write_text(path.read_text().replace("hub_revision", "# hub_revision"))
    changed = ImageCatalog(path.parents[1]).images["fetch"]

    assert container_identity(copy["fetch"], DeviceKind.CPU, None) == container_identity(changed, DeviceKind.CPU, None)
    assert process_identity(copy["fetch"], "0" * 64, "cp311") == process_identity(changed, "0" * 64, "cp311")


OWN_WORKER = 'ARG PARENT\nFROM ${PARENT}\nCOPY worker.py run.sh /\nENTRYPOINT ["/run.sh"]\n'


@pytest.fixture
def foreign(copy):
    """An image with a worker of its own, as a third party writes one."""
    folder = copy["torch"].folder.parent / "foreign"
    (folder / "locks").mkdir(parents=True)
    (folder / "image.toml").write_text('name = "foreign"\nsummary = ""\noperations = []\ndevices = ["cpu"]\n')
    (folder / "locks" / "cpu.txt").touch()
    for name, text in (("Dockerfile", OWN_WORKER), ("worker.py", ""), ("run.sh", ""), ("README.md", "")):
        (folder / name).write_text(text)
    return ImageCatalog(folder.parent).images["foreign"]


@pytest.mark.parametrize("name", ["worker.py", "run.sh", "Dockerfile", "image.toml"])
def test_a_changed_file_that_a_dockerfile_copies_makes_the_image_another(foreign, name):
    before = container_identity(foreign, DeviceKind.CPU, None), image_tag(foreign, DeviceKind.CPU)
    (foreign.folder / name).write_text((foreign.folder / name).read_text() + "\n")

    assert container_identity(foreign, DeviceKind.CPU, None) != before[0]
    assert image_tag(foreign, DeviceKind.CPU) != before[1]


def test_a_file_that_may_be_run_is_another_than_one_that_may_not(foreign):
    before = container_identity(foreign, DeviceKind.CPU, None)
    (foreign.folder / "run.sh").chmod(0o755)

    assert container_identity(foreign, DeviceKind.CPU, None) != before


def test_documents_and_the_harness_change_nothing_about_a_worker_of_its_own(foreign, monkeypatch):
    before = image_tag(foreign, DeviceKind.CPU)
    (foreign.folder / "README.md").write_text("more")
    monkeypatch.setattr("orchestrator.images.inputs.harness_digest", lambda: "0" * 64)

    assert image_tag(foreign, DeviceKind.CPU) == before


def test_a_worker_of_its_own_that_copies_the_harness_is_rebuilt_with_it(foreign, monkeypatch):
    foreign.dockerfile.write_text(OWN_WORKER + "COPY harness /harness\n")
    before = image_tag(foreign, DeviceKind.CPU)
    monkeypatch.setattr("orchestrator.images.inputs.harness_digest", lambda: "0" * 64)

    assert image_tag(foreign, DeviceKind.CPU) != before


def test_images_that_add_nothing_have_their_parents_environment(copy):
    assert environment_tag(copy["gptq"], DeviceKind.CPU) == environment_tag(copy["wanda"], DeviceKind.CPU)
    repositories = [tag.partition(":")[0] for tag in all_tags(copy["gptq"], DeviceKind.CPU)]
    assert repositories == [f"llmcbench/{name}" for name in ("gptq", "torch-transformers", "torch", "base")]


def test_locking_without_the_parents_lock_says_what_to_lock_first(copy):
    copy["torch"].lock(DeviceKind.CPU).unlink()

    with pytest.raises(BadImage, match="'torch', on which image 'fetch' builds, has no lock for cpu") as raised:
        lock_image(copy["fetch"], DeviceKind.CPU)
    assert "images lock torch" in raised.value.hint


def test_the_context_of_an_environment_is_the_lock_and_the_pinned_wheels(copy, tmp_path, monkeypatch):
    index, empty = PackageIndex(tmp_path / "index"), PackageIndex(tmp_path / "empty")
    lock = index.add("torch", "2.13.0+cpu")
    index.add("torch", "1.0")
    wheels = tmp_path / "index" / "torch"
    wanted = wheels / "torch-2.13.0+cpu-py3-none-any.whl"
    image, sources = copy["torch"], PackageSources(index=empty.address, find_links=(str(wheels),))
    monkeypatch.setattr(PackageSources, "elsewhere", property(lambda self: self))  # an empty index, not the world's
    image.lock(DeviceKind.CPU).write_text(lock)
    context = tmp_path / "context"
    context.mkdir()

    stage_environment(image, DeviceKind.CPU, context, sources)

    assert pinned_wheels(image.lock(DeviceKind.CPU).read_text(), sources) == [wanted]
    assert [path.name for path in (context / "wheels").iterdir()] == [wanted.name]
    assert (context / "lock.txt").read_text() == image.lock(DeviceKind.CPU).read_text()
    assert {path.name for path in context.iterdir()} == {"lock.txt", "wheels"}


def test_the_context_of_a_worker_is_what_it_says_of_itself_and_the_harness_for_any_user_to_read(copy, tmp_path):
    before = os.umask(0o077)
    try:
        stage_worker(copy["gptq"], tmp_path / "context")
    finally:
        os.umask(before)

    assert {path.name for path in (tmp_path / "context").iterdir()} == {"harness", "image.toml"}
    for path in (tmp_path / "context").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_what_a_worker_of_its_own_is_staged_with_is_what_its_digest_is_of(foreign, tmp_path):
    context = tmp_path / "context"
    context.mkdir()

    stage_environment(foreign, DeviceKind.CPU, context, PackageSources())

    staged = {path.relative_to(context).as_posix() for path in context.rglob("*") if path.is_file()}
    assert {name for name in staged if not name.startswith("harness/")} == {*copied_files(foreign), "lock.txt"}
    assert set(copied_files(foreign)) == {"image.toml", "run.sh", "worker.py"}


def test_the_staged_harness_has_sources_alone(tmp_path):
    copy_harness(tmp_path / "harness")

    assert (tmp_path / "harness" / "contract" / "__init__.py").is_file()
    assert {path.suffix for path in (tmp_path / "harness").rglob("*") if path.is_file()} <= {
        ".py",
        ".yaml",
        ".toml",
        ".json",
    }


def order(folder, text, name, **more):
    """A build of the base image and the steps in `text`."""
    context = folder / "context"
    context.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {BASE_TAG}\n{text}")
    return Build(
        context=context,
        dockerfile=folder / "Dockerfile",
        tag=f"llmcbench/{name}:cpu",
        build_arguments={},
        labels={},
        **more,
    )


@pytest.mark.docker
def test_a_failing_build_ends_with_what_the_builder_printed_last(tmp_path):
    client = engine_or_skip()
    failing = order(tmp_path, "RUN echo 'No matching distribution found for torch==2.13.0+cpu' && false\n", "failing")

    with pytest.raises(BadImage, match="No matching distribution found for torch") as raised:
        build(client, failing)
    assert "the last lines" in raised.value.hint


@pytest.mark.docker
def test_a_build_secret_is_seen_by_its_step_and_stays_out_of_the_image(tmp_path):
    client = engine_or_skip()
    secret = tmp_path / "secret"
    secret.write_text("index with a password")
    step = "RUN --mount=type=secret,id=pip.conf wc -c < /run/secrets/pip.conf > /seen\n"

    build(client, order(tmp_path, step, "secret", secrets={"pip.conf": secret}))

    show = ["sh", "-c", "cat /seen; ls /run/secrets"]
    assert client.containers.run("llmcbench/secret:cpu", show, remove=True, network_mode="none").split() == [b"21"]
    client.images.remove("llmcbench/secret:cpu")


@pytest.mark.docker
def test_a_build_that_replaces_another_leaves_no_image_without_a_name(tmp_path):
    client = engine_or_skip()
    replaced = []
    for text in ("first", "second"):
        (tmp_path / text).mkdir()
        one = order(tmp_path / text, f"RUN echo {text} > /text\n", "replacing")
        build(client, one)
        replaced.append(client.images.get(one.tag).id)

    there = {image.id for image in client.images.list(all=True)}
    assert replaced[1] in there
    assert replaced[0] not in there
    client.images.remove("llmcbench/replacing:cpu")


def test_an_image_is_built_for_what_its_requirements_and_its_parents_name():
    assert CATALOG.images["evaluate"].requirements == {
        "torch",
        "pydantic",
        "transformers",
        "lm-eval",
        "numpy",
        "psutil",
        "safetensors",
        "gguf",
    }
    assert "llmcompressor" in CATALOG.images["llmcompressor"].requirements
    assert CATALOG.images["wanda"].requirements == CATALOG.images["torch-transformers"].requirements
