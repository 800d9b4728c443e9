"""Images outside the project: found in folders that are named, built on the project's, prebuilt, or without Python."""

import json
import shutil
from pathlib import Path

import pytest

from harness.contract import (
    Calibration,
    CompressParameters,
    Device,
    DeviceKind,
    Operation,
    Setting,
    work_source,
)
from harness.contract.weights import BadWeights, read_stored
from orchestrator.checks.conformance import Check
from orchestrator.checks.using import Bench, Evaluator, use_image
from orchestrator.errors import BadImage, BadManifest, RuntimeUnavailable
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.prebuilt import have_prebuilt
from orchestrator.images.scaffold import Kind, Language, write_image
from orchestrator.runtime.process import ProcessRuntime
from tests.support.environments import stand_in

IMAGES = Path(__file__).parents[2] / "images"
NEEDS_JQ = pytest.mark.skipif(shutil.which("jq") is None, reason="these workers are sh and jq")
DIGEST = "sha256:" + "a" * 64


def described(folder: Path, **changes: object) -> Path:
    """The folder of a small image of its own."""
    folder.mkdir(parents=True)
    document = {"name": folder.name, "summary": "s", "operations": ["compress"], "devices": ["cpu"]} | changes
    (folder / "image.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "locks").mkdir()
    (folder / "locks" / "cpu.txt").write_text("", encoding="utf-8")
    return folder


def test_a_folder_of_images_and_the_folder_of_one_are_added(tmp_path: Path) -> None:
    one, two, alone = (described(tmp_path / name) for name in ("more/one", "more/two", "else/alone"))
    catalog = ImageCatalog(IMAGES, tmp_path / "more", alone)
    assert {"one", "two", "alone", "wanda"} <= catalog.images.keys()
    assert {catalog.images[path.name].folder for path in (one, two, alone)} == {one, two, alone}


def test_what_it_builds_on_is_the_projects(tmp_path: Path) -> None:
    described(tmp_path / "mine", parent="torch-transformers")
    shutil.rmtree(tmp_path / "mine" / "locks")
    mine = ImageCatalog(IMAGES, tmp_path).images["mine"]
    assert mine.parent is not None
    assert mine.parent.folder == IMAGES / "torch-transformers"
    assert mine.lock(DeviceKind.CPU) == IMAGES / "torch-transformers" / "locks" / "cpu.txt"
    assert mine.project == IMAGES


def test_two_images_of_one_name_are_refused_with_both_folders(tmp_path: Path) -> None:
    first, second = described(tmp_path / "a" / "wanda"), IMAGES / "wanda"
    with pytest.raises(BadImage) as refusal:
        ImageCatalog(IMAGES, tmp_path / "a")
    assert str(first) in refusal.value.message
    assert str(second) in refusal.value.message


def test_a_folder_without_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="holds no image"):
        ImageCatalog(IMAGES, tmp_path)


def test_a_wrong_field_of_a_description_is_named(tmp_path: Path) -> None:
    described(tmp_path / "mine", devices=["abacus"])
    with pytest.raises(BadImage, match=r"devices\.0: Input should be 'cpu' or 'cuda'"):
        ImageCatalog(IMAGES, tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"container_only": "its library wants Debian 12"}, "its library wants Debian 12"),
        ({"prebuilt": f"registry.example.org/me/mine@{DIGEST}"}, "prebuilt"),
        ({}, "its lock is without pydantic"),
    ],
)
def test_what_cannot_be_a_process_is_refused_with_the_reason(
    tmp_path: Path, fields: dict[str, object], words: str
) -> None:
    described(tmp_path / "mine", **fields)
    image = ImageCatalog(IMAGES, tmp_path / "mine").images["mine"]
    with pytest.raises(RuntimeUnavailable, match=words):
        ProcessRuntime(tmp_path / "store").prepare(image, DeviceKind.CPU, lambda note: None)


def test_a_prebuilt_image_is_named_by_digest_alone(tmp_path: Path) -> None:
    described(tmp_path / "mine", prebuilt="registry.example.org/me/mine:latest")
    with pytest.raises(BadImage, match="prebuilt: String should match pattern"):
        ImageCatalog(IMAGES, tmp_path / "mine")


class NoImages:
    """An engine without any image."""

    @property
    def images(self) -> "NoImages":
        return self

    def get(self, reference: str) -> None:
        from docker.errors import ImageNotFound

        raise ImageNotFound(reference)


def test_a_prebuilt_image_that_the_engine_lacks_is_named(tmp_path: Path) -> None:
    described(tmp_path / "mine", prebuilt=DIGEST)
    image = ImageCatalog(IMAGES, tmp_path / "mine").images["mine"]
    with pytest.raises(BadImage, match=f"{DIGEST}, which is not an image of this engine"):
        have_prebuilt(NoImages(), image, DIGEST, lambda note: None)  # type: ignore[arg-type]


def test_a_changed_worker_is_another_image(tmp_path: Path) -> None:
    folder = write_image("mine", Kind.METHOD, Language.SHELL, tmp_path)
    image = ImageCatalog(IMAGES, folder).images["mine"]
    runtime = ProcessRuntime(tmp_path / "store")
    before = runtime.prepare(image, DeviceKind.CPU, lambda note: None)
    (folder / "README.md").write_text("words", encoding="utf-8")
    assert runtime.identity(image, DeviceKind.CPU) == before
    (folder / "run.sh").write_text("exit 0\n", encoding="utf-8")
    assert runtime.identity(image, DeviceKind.CPU) not in (None, before)


@pytest.mark.parametrize("name", ["Shrink", "my_method", "-x", "a--b", "../x", ""])
def test_a_name_that_no_image_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadManifest, match="cannot be the name"):
        write_image(name, Kind.METHOD, Language.PYTHON, tmp_path)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(BadManifest, match="exists already"):
        write_image("mine", Kind.METHOD, Language.PYTHON, tmp_path)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("language", Language)
def test_every_new_image_can_be_read_and_offers_what_was_asked_for(
    tmp_path: Path, kind: Kind, language: Language
) -> None:
    folder = write_image("my-own", kind, language, tmp_path)
    description = ImageCatalog(IMAGES, folder).images["my-own"].description
    assert [one.name for one in (*description.methods, *description.backends)] == ["my-own"]
    assert not [path for path in folder.rglob("*") if path.is_file() and "@NAME@" in path.read_text("utf-8")]


def test_a_module_of_the_images_own_is_keyed_by_all_of_the_harness(tmp_path: Path) -> None:
    """It may import whatever it likes, and nothing on the host reads its imports."""
    image = ImageCatalog(IMAGES, write_image("mine", Kind.METHOD, Language.PYTHON, tmp_path)).images["mine"]
    asked = CompressParameters(
        method="mine",
        setting=Setting.parse("50%"),
        calibration=Calibration(dataset="c4", samples=1, sequence_length=8, seed=0),
    )
    source = work_source(image.description, Operation.COMPRESS, asked)
    assert {
        "harness/methods/wanda.py",
        "harness/methods/skeleton/saving.py",
        "harness/kernels/tiles.py",
    } <= source.keys()


def used(folder: Path, tmp_path: Path) -> dict[str, Check]:
    image = ImageCatalog(IMAGES, folder).images[folder.name]
    runtime = ProcessRuntime(tmp_path / "store")
    runtime.prepare(image, DeviceKind.CPU, lambda note: None)
    scratch = tmp_path / "checked"
    scratch.mkdir()
    bench = Bench(runtime, Device(), scratch, Evaluator(None, "not asked for"))
    return {check.name: check for check in use_image(bench, image)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", Kind)
def test_a_new_image_in_python_does_what_it_offers(tmp_path: Path, kind: Kind) -> None:
    stand_in(tmp_path / "store", ImageCatalog(IMAGES).images["torch-transformers"], DeviceKind.CPU)
    checks = used(write_image("mine", kind, Language.PYTHON, tmp_path), tmp_path)
    assert [f"{one.name}: {one.message}" for one in checks.values() if one.passed is False] == []
    assert sum(one.passed is True for one in checks.values()) >= 4


@NEEDS_JQ
@pytest.mark.parametrize("kind", Kind)
def test_a_new_image_without_python_does_what_it_offers(tmp_path: Path, kind: Kind) -> None:
    checks = used(write_image("mine", kind, Language.SHELL, tmp_path), tmp_path)
    assert [f"{one.name}: {one.message}" for one in checks.values() if one.passed is False] == []
    assert sum(one.passed is True for one in checks.values()) >= 4


@NEEDS_JQ
@pytest.mark.parametrize(
    ("instead_of", "written", "clause", "words"),
    [
        (
            'method: "@"',
            'method: "other"',
            "compresses a tiny model",
            "result.artifact.method is 'other', and '@' was asked for",
        ),
        ("parent: $parent", 'parent: ("0" * 64)', "compresses a tiny model", "result.artifact.parent is '000"),
        ("notes: []", "notes: [], parameter_count: 7", "its weights are what it says", "parameter_count is 7"),
        (
            "notes: []",
            'notes: [], sparsity: {pattern: "unstructured", target: 0.5, measured: 0.5}',
            "compresses a tiny model",
            "result.artifact.sparsity is Sparsity(",
        ),
        ("size_bytes: $size", "size_bytes: 1", "its files are what its descriptor says", "bytes, and 1 are described"),
        ("save_seconds: $save", "save_seconds: -1", "compresses a tiny model", "result.cost.save_seconds: Input"),
    ],
)
def test_each_false_claim_fails_by_its_field(
    tmp_path: Path, instead_of: str, written: str, clause: str, words: str
) -> None:
    folder = write_image("mine", Kind.METHOD, Language.SHELL, tmp_path)
    script = folder / "run.sh"
    text = script.read_text("utf-8")
    old, new = instead_of.replace("@", "mine"), written.replace("@", "mine")
    assert old in text
    script.write_text(text.replace(old, new), encoding="utf-8")
    failed = [one for one in used(folder, tmp_path).values() if one.passed is False]
    assert [one for one in failed if clause in one.name and words.replace("@", "mine") in one.message], failed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no safetensors file"),
        (b"\xff" * 8, "its header would be"),
        (b"\x02\0\0\0\0\0\0\0[]", "is no safetensors file"),
        (
            b'\x42\0\0\0\0\0\0\0{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}      ',
            "reaches beyond the end",
        ),
    ],
)
def test_weights_that_cannot_be_read_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BadWeights, match=words):
        read_stored(tmp_path)
