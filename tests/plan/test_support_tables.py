"""The support tables themselves: complete, without contradictions, every answer with its source."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from harness.contract import BackendDescription, CheckpointFormat, DeviceKind, ImageDescription, LayerWidths, Reason
from orchestrator.errors import BadImage
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.plan.support import (
    TABLE_NAME,
    Answer,
    Checkpoint,
    Refused,
    Served,
    SupportRow,
    SupportTable,
    judge,
    read_table,
    support_of,
)
from orchestrator.plan.support.verdict import deciding_row, every_checkpoint

IMAGES = Path(__file__).parents[2] / "images"
TABLES = tuple(sorted(IMAGES.glob(f"*/{TABLE_NAME}")))
each_table = pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parent.name)
LLAMA = Checkpoint.dense(architecture="LlamaForCausalLM")


def table(*rows: dict[str, object]) -> SupportTable:
    return SupportTable.model_validate(
        {"backend": "some", "versions": {"cpu": "1"}, "rows": [{"source": "a page", **row} for row in rows]}
    )


def test_every_backend_of_the_catalog_has_a_table_beside_its_image() -> None:
    for image, backend in ImageCatalog(IMAGES).backends.values():
        assert (image.folder / TABLE_NAME).is_file()
        found = support_of(image, backend)
        served = {
            row.formats for row in found.rows if row.answer is not Answer.NO and not row.otherwise
        }  # what the description promises is what the table grants
        assert {one for formats in served for one in formats} == set(backend.formats)
        assert backend.architectures == ()  # which the rows say


@each_table
def test_every_checkpoint_has_an_answer(path: Path) -> None:
    found = read_table(path)
    without = [cell for cell in every_checkpoint(found) if deciding_row(found, cell) is None]
    assert not without


@each_table
def test_every_row_decides_something(path: Path) -> None:
    found = read_table(path)
    deciding = [deciding_row(found, cell) for cell in every_checkpoint(found)]
    assert [row for row in found.rows if row not in deciding] == []


@each_table
def test_no_two_rows_answer_the_same_question_differently(path: Path) -> None:
    rows = [row for row in read_table(path).rows if not row.otherwise]
    for index, row in enumerate(rows):
        same = [other for other in rows[index + 1 :] if other.conditions == row.conditions]
        assert not same


_OF_THIS_REPOSITORY = re.compile(r"\b(?:harness|orchestrator|images|tests|benchmarks|docs)/[\w./-]*\w")
_VERSION = re.compile(r"\b\d+\.\d+\.\d+\b")


@each_table
def test_every_source_in_this_repository_exists(path: Path) -> None:
    cited = {name for row in read_table(path).rows for name in _OF_THIS_REPOSITORY.findall(row.source)}
    assert [name for name in sorted(cited) if not (IMAGES.parent / name).exists()] == []


@each_table
def test_every_version_in_a_source_is_one_that_the_image_pins(path: Path) -> None:
    cited = {version for row in read_table(path).rows for version in _VERSION.findall(row.source)}
    files = [*path.parent.glob("locks/*.txt"), *path.parent.glob("*.toml"), *path.parent.glob("Dockerfile")]
    pinned = "\n".join(file.read_text(encoding="utf-8") for file in files if file != path)
    assert [version for version in sorted(cited) if version not in pinned] == []


@each_table
def test_every_architecture_is_one_that_transformers_knows(path: Path) -> None:
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    assert {name for row in read_table(path).rows for name in row.architectures} <= known


@pytest.mark.parametrize(
    "row",
    [
        {"formats": ["dense"], "answer": "no", "message": "why", "source": "x"},
        {"formats": ["dense"], "answer": "no", "reason": "format", "source": "x"},
        {"formats": ["dense"], "answer": "no", "reason": "format", "message": "why", "source": ""},
        {"formats": ["dense"], "answer": "as-dense", "source": "x"},
        {"formats": ["dense"], "answer": "yes", "reason": "format", "source": "x"},
        {"formats": ["dense"], "answer": "yes", "otherwise": True, "source": "x"},
        {"formats": ["bitsandbytes"], "answer": "yes", "source": "x"},
        {"formats": ["dense"], "bits": [4], "answer": "yes", "source": "x"},
    ],
    ids=["no-reason", "no-sentence", "no-source", "dense-why", "yes-reason", "yes-otherwise", "format", "condition"],
)
def test_a_row_that_leaves_something_unsaid_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SupportRow.model_validate(row)


def test_a_row_about_a_device_without_a_version_is_refused() -> None:
    with pytest.raises(ValidationError, match="versions"):
        table({"devices": ["cuda"], "answer": "yes"})


def test_the_least_favourable_row_counts_and_otherwise_comes_last() -> None:
    found = table(
        {"formats": ["dense"], "architectures": ["LlamaForCausalLM"], "answer": "yes"},
        {"formats": ["dense"], "zeros": True, "answer": "as-dense", "message": "no gain"},
        {"layer_widths": "per-layer", "answer": "no", "reason": "shape", "message": "one width"},
        {"formats": ["dense"], "otherwise": True, "answer": "no", "reason": "architecture", "message": "none such"},
    )
    assert judge(found, LLAMA) == Served("", "a page")
    pruned = LLAMA.model_copy(update={"zeros": True})
    assert judge(found, pruned) == Served("no gain", "a page", as_dense=True)
    uneven = pruned.model_copy(update={"layer_widths": LayerWidths.PER_LAYER})
    assert judge(found, uneven) == Refused(Reason.SHAPE, "one width", "a page")
    other = LLAMA.model_copy(update={"architecture": "OPTForCausalLM"})
    assert judge(found, other) == Refused(Reason.ARCHITECTURE, "none such", "a page")


def test_what_is_not_known_yet_is_refused_only_where_it_cannot_turn_out_well() -> None:
    found = table(
        {"formats": ["gptq"], "weight_bits": [4], "symmetric": True, "answer": "yes"},
        {"formats": ["gptq"], "otherwise": True, "answer": "no", "reason": "format", "message": "no kernel"},
    )
    unknown = Checkpoint(format=CheckpointFormat.GPTQ, device=DeviceKind.CPU)
    assert isinstance(judge(found, unknown), Served)
    assert isinstance(judge(found, unknown.model_copy(update={"weight_bits": 8})), Refused)
    assert isinstance(judge(found, unknown.model_copy(update={"symmetric": False})), Refused)


def test_a_device_that_the_image_has_not_and_a_format_without_a_row_are_refused() -> None:
    found = table({"formats": ["dense"], "answer": "yes"})
    on_gpu = judge(found, LLAMA.model_copy(update={"device": DeviceKind.CUDA}))
    assert isinstance(on_gpu, Refused)
    assert on_gpu.reason is Reason.DEVICE
    quantized = judge(found, LLAMA.model_copy(update={"format": CheckpointFormat.AWQ}))
    assert isinstance(quantized, Refused)
    assert quantized.reason is Reason.FORMAT


BACKEND = BackendDescription(name="engine", summary="", formats=(CheckpointFormat.DENSE,))


def image(folder: Path) -> Image:
    description = ImageDescription(
        name="engine", summary="", operations=(), devices=(DeviceKind.CPU,), backends=(BACKEND,)
    )
    return Image(folder, description)


def test_an_image_without_a_table_is_taken_at_its_word(tmp_path: Path) -> None:
    found = support_of(image(tmp_path), BACKEND)
    assert isinstance(judge(found, LLAMA), Served)
    quantized = judge(found, LLAMA.model_copy(update={"format": CheckpointFormat.GPTQ}))
    assert isinstance(quantized, Refused)
    assert TABLE_NAME in quantized.source


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('backend = "other"\nrows = []\n[versions]\ncpu = "1"\n', "is about 'other'"),
        ('backend = "engine"\nrows = []\n[versions]\ncuda = "1"\n', "other devices"),
        ('backend = "engine"\nrows = []\n', "not a valid support table"),
        ("backend =", "not a valid support table"),
    ],
)
def test_a_table_that_does_not_fit_its_image_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / TABLE_NAME).write_text(text)
    with pytest.raises(BadImage, match=words) as refusal:
        support_of(image(tmp_path), BACKEND)
    assert refusal.value.hint
