"""A backend that does not read a checkpoint gets an exact export that it reads; a dense one only where asked for."""

import shutil
from pathlib import Path

import pytest

from harness.contract import (
    CheckpointFormat,
    Device,
    DeviceKind,
    ExportParameters,
    LayerWidths,
    LayerWidthsExport,
    Operation,
)
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.plan.exporting import DENSE_FALLBACK, PADDED, Way, find_way
from orchestrator.plan.support import Checkpoint, Refused
from orchestrator.stages import Plan
from orchestrator.store import StageState
from tests.support.small_runs import IMAGES, MANIFEST

ENGINE = """
name = "{name}"
summary = "An engine of this test"
operations = ["benchmark"]
devices = ["cpu"]

[[backends]]
name = "{name}"
summary = "An engine of this test"
formats = ["{format}"]
"""


@pytest.fixture
def catalog(tmp_path: Path) -> ImageCatalog:
    """The project's images, and three engines that each read one layout of uniform layers."""
    images = tmp_path / "images"
    shutil.copytree(IMAGES, images, ignore=shutil.ignore_patterns("locks", "lock.json"))
    for name, layout in (
        ("gptqs", "gptq"),
        ("second-gptqs", "gptq"),
        ("modelopts", "modelopt/w4a16-awq"),
        ("denses", "dense"),
    ):
        (images / name).mkdir()
        (images / name / "image.toml").write_text(ENGINE.format(name=name, format=layout), encoding="utf-8")
    table = '[[rows]]\nformats = ["dense"]\nlayer_widths = "uniform"\nanswer = "yes"\nsource = "this test"\n'
    table += '[[rows]]\nformats = ["dense"]\nlayer_widths = "per-layer"\nanswer = "no"\nreason = "shape"\n'
    table += 'message = "one width only"\nsource = "this test"\n'
    (images / "denses" / "support.toml").write_text(
        f'backend = "denses"\nversions = {{cpu = "1"}}\n{table}', encoding="utf-8"
    )
    return ImageCatalog(images)


def plan_of(catalog: ImageCatalog, *backends: str, setting: str = "W4A16g64", **changes: object) -> Plan:
    options = changes.pop("options", {"symmetric": True})
    benchmark = {"backends": backends, "batch_sizes": [1], **changes}
    compress = [{"method": "gptq", "setting": setting, "options": options}]
    manifest = Manifest.model_validate({**MANIFEST, "compress": compress, "benchmark": benchmark})
    return build_plan(manifest, catalog, Device(threads=1), None)


LABEL = "tiny/gptq-W4A16g64"


def test_one_exact_export_serves_every_backend_that_needs_it(catalog: ImageCatalog) -> None:
    plan = plan_of(catalog, "gptqs", "second-gptqs", "transformers")
    exports = [stage for stage in plan.stages if stage.operation is Operation.EXPORT]
    assert [stage.id for stage in exports] == [f"export/{LABEL}/gptq"]
    assert exports[0].parameters == ExportParameters(target=CheckpointFormat.GPTQ)
    assert exports[0].needs == (f"compress/{LABEL}",)
    assert exports[0].device.kind is DeviceKind.CPU
    for backend in ("gptqs", "second-gptqs"):
        stage = plan.stage(f"benchmark/{LABEL}/{backend}")
        assert stage.needs == (f"export/{LABEL}/gptq",)
        assert stage.caveat is None
    assert plan.stage(f"benchmark/{LABEL}/transformers").needs == (f"compress/{LABEL}",)
    assert f"gptqs reads an exact export to gptq ({LABEL})" in plan.decisions
    names = [stage.id for stage in plan.stages]
    assert names.index(f"export/{LABEL}/gptq") < names.index(f"benchmark/{LABEL}/gptqs")


def test_asymmetric_gptq_weights_reach_vllm_in_another_layout(catalog: ImageCatalog) -> None:
    """Which vLLM's GPTQ kernels do not take, and those for compressed-tensors do."""
    plan = plan_of(catalog, "vllm", options={"layout": "gptq", "symmetric": False})
    assert plan.stage(f"benchmark/{LABEL}/vllm").needs == (f"export/{LABEL}/compressed-tensors/pack-quantized",)


def test_what_a_layout_cannot_hold_is_not_planned_and_the_reason_says_what_would_help(catalog: ImageCatalog) -> None:
    plan = plan_of(catalog, "modelopts", options={"symmetric": False})
    (refused,) = [one for one in plan.not_planned if one.subject.method == "gptq"]
    assert "no export to modelopt/w4a16-awq: it holds symmetric weights only" in refused.message
    plan = plan_of(catalog, "modelopts", setting="W4A16g32")
    (refused,) = [one for one in plan.not_planned if one.subject.method == "gptq"]
    assert "groups of 64 or 128" in refused.message
    assert plan_of(catalog, "modelopts").stage(f"benchmark/{LABEL}/modelopts").needs == (
        f"export/{LABEL}/modelopt/w4a16-awq",
    )


def test_a_dense_fallback_is_planned_only_where_it_is_asked_for_and_says_so(catalog: ImageCatalog) -> None:
    plan = plan_of(catalog, "denses")
    (refused,) = plan.not_planned
    assert refused.subject.method == "gptq"
    assert "dense_fallback: true" in refused.message
    plan = plan_of(catalog, "denses", "gptqs", dense_fallback=True)
    stage = plan.stage(f"benchmark/{LABEL}/denses")
    assert stage.needs == (f"export/{LABEL}/dense",)
    assert stage.caveat == DENSE_FALLBACK
    assert StageState.planned(stage).caveat == DENSE_FALLBACK
    assert plan.stage(f"benchmark/{LABEL}/gptqs").caveat is None
    assert any(decision.startswith("denses: dense fallback, as asked for") for decision in plan.decisions)
    assert plan.stage("benchmark/tiny/dense/denses").caveat is None


def test_an_evaluation_of_a_dense_fallback_says_so_too(catalog: ImageCatalog) -> None:
    path = catalog.root / "denses" / "image.toml"
    path.write_text(ENGINE.format(name="denses", format="dense") + "scores = true\n", encoding="utf-8")
    benchmark = {"backends": ["denses"], "batch_sizes": [1], "dense_fallback": True}
    compress = [{"method": "gptq", "setting": "W4A16g64", "options": {"symmetric": True}}]
    evaluate = {"tasks": ["arc_easy"], "engine": ["transformers", "denses"]}
    asked = {**MANIFEST, "compress": compress, "benchmark": benchmark, "evaluate": evaluate}
    plan = build_plan(Manifest.model_validate(asked), ImageCatalog(catalog.root), Device(threads=1), None)
    caveats = {stage.id: stage.caveat for stage in plan.stages if f"export/{LABEL}/dense" in stage.needs}
    assert caveats == {
        f"evaluate/{LABEL}/arc_easy/denses": DENSE_FALLBACK,
        f"benchmark/{LABEL}/denses": DENSE_FALLBACK,
    }
    assert plan.stage(f"evaluate/{LABEL}/arc_easy").caveat is None
    assert plan.stage("evaluate/tiny/dense/arc_easy/denses").caveat is None


def test_the_fallback_is_no_part_of_what_a_worker_is_asked(catalog: ImageCatalog) -> None:
    asked = plan_of(catalog, "gptqs", dense_fallback=True).stage(f"benchmark/{LABEL}/gptqs")
    assert asked.parameters == plan_of(catalog, "gptqs").stage(f"benchmark/{LABEL}/gptqs").parameters


def test_layers_of_different_widths_are_padded_and_said_to_be(catalog: ImageCatalog) -> None:
    pruned = Checkpoint.dense().model_copy(update={"layer_widths": LayerWidths.PER_LAYER})
    way = find_way("denses", catalog, Device(), pruned, dense_fallback=False)
    assert isinstance(way, Way)
    assert way.export is not None
    assert (way.export.layers, way.caveat) == (LayerWidthsExport.PADDED, PADDED)


def test_w8a8_reaches_no_engine_as_fp8(catalog: ImageCatalog) -> None:
    """TensorRT-LLM would take such weights for FP8: neither a table nor an export lets them through."""
    (catalog.root / "denses" / "image.toml").write_text(
        ENGINE.format(name="denses", format="modelopt/fp8"), encoding="utf-8"
    )
    (catalog.root / "denses" / "support.toml").unlink()
    fresh = ImageCatalog(catalog.root)
    w8a8 = Checkpoint(format=CheckpointFormat.INT_QUANTIZED, weight_bits=8, activation_bits=8, group_size=0)
    for fallback in (False, True):
        assert isinstance(find_way("denses", fresh, Device(), w8a8, dense_fallback=fallback), Refused)
    dense = find_way("denses", fresh, Device(), Checkpoint.dense(), dense_fallback=True)
    assert isinstance(dense, Refused), "FP8 rounds, so it is never planned in the place of dense weights"
