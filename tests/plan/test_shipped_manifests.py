"""The manifests that come with the project can be planned as they stand, and ask for what their tracks need."""

from pathlib import Path

import pytest

from harness.contract import Device, DeviceKind
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest, hub_source, read_manifest
from orchestrator.manifest.data_sources import dataset_source
from orchestrator.plan import build_plan
from orchestrator.plan.choices import check_choices
from orchestrator.plan.data import data_sources
from orchestrator.plan.stand_ins import with_stand_ins
from orchestrator.score.paper.tables import load_table
from orchestrator.stages import Plan
from orchestrator.tracks import Track, expect, expected_tasks, parts_of_task

ROOT = Path(__file__).parents[2]
CATALOG = ImageCatalog(ROOT / "images")
MANIFESTS = sorted((ROOT / "manifests").glob("*.yaml"))


def plan(path: Path, data: Path | None = None) -> Plan:
    manifest, _ = with_stand_ins(read_manifest(path), CATALOG, data, data_sources(CATALOG))
    return build_plan(manifest, CATALOG, Device(threads=1), data)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_manifest_can_be_planned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    manifest = read_manifest(path)
    check_choices(manifest.scoring, {name: task for name, (_, task) in CATALOG.tasks.items()})
    assert manifest.name == path.stem
    stages = plan(path).stages
    assert len({stage.id for stage in stages}) == len(stages)


def test_the_accuracy_manifest_measures_all_that_tracks_1_2_and_6_expect() -> None:
    manifest = read_manifest(ROOT / "manifests" / "accuracy.yaml")
    assert manifest.evaluate is not None
    assert set(expected_tasks(manifest.scoring)) == set(manifest.evaluate.tasks)
    assert manifest.evaluate.limit is None
    assert {entry.method for entry in manifest.compress} == {
        "wanda",
        "sparsegpt",
        "llm-pruner",
        "gptq",
        "awq",
        "smoothquant",
        "omniquant",
        "magnitude",
        "rtn",
    }


def entries(manifest: Manifest) -> set[tuple[str, str]]:
    """Methods and bits or ratios, without groups, of all but baselines."""
    baselines = {name for name, (_, method) in CATALOG.methods.items() if method.baseline}
    asked = {(one.method, (one.setting or "").partition("g")[0]) for one in manifest.compress}
    return {one for one in asked if one[0] not in baselines}


@pytest.mark.parametrize(("name", "table"), [("paper-generalization", "track2"), ("paper-int8", "track2_int8")])
def test_the_papers_manifests_of_track_2_have_the_models_and_methods_of_their_tables(name: str, table: str) -> None:
    manifest = read_manifest(ROOT / "manifests" / f"{name}.yaml")
    rows = load_table(table).rows
    assert {model.name for model in manifest.models} == {row.model for row in rows}
    assert entries(manifest) == {(row.method, row.setting) for row in rows if row.method is not None}


def test_families_are_those_of_the_papers_table() -> None:
    rows = {row.model: row.family for row in load_table("track2").rows}
    manifest = read_manifest(ROOT / "manifests" / "full.yaml")
    assert {model.name: model.family for model in manifest.models} == rows


def test_the_main_manifest_has_the_models_and_methods_of_its_tables() -> None:
    manifest = read_manifest(ROOT / "manifests" / "paper-main.yaml")
    rows = [row for table in ("track1", "track3", "track4", "track6") for row in load_table(table).rows]
    assert {model.name for model in manifest.models} == {row.model for row in rows}
    of_tables = {(row.method, row.setting) for row in rows if row.method is not None}
    assert entries(manifest) == of_tables | {("gptq", "W4A16"), ("awq", "W4A16")}
    assert manifest.evaluate is not None
    assert set(expected_tasks(manifest.scoring)) == set(manifest.evaluate.tasks)


def test_the_whole_papers_manifest_is_the_sum_of_its_parts() -> None:
    """What is left out of it is what no part asks for."""
    parts = [f"paper-{part}" for part in ("main", "vicuna", "generalization", "int8")]
    asked = {stage.id for part in parts for stage in plan(ROOT / "manifests" / f"{part}.yaml").stages}
    assert {stage.id for stage in plan(ROOT / "manifests" / "full.yaml").stages} == asked


def test_every_model_of_the_papers_manifests_is_pinned_and_known_before_it_is_fetched() -> None:
    models = read_manifest(ROOT / "manifests" / "full.yaml").models
    assert len(models) == 18
    known = {name for _, method in CATALOG.methods.values() for name in method.architectures}
    for model in models:
        source = hub_source(model.source)
        assert source is not None
        assert source.commit is not None
        assert model.architecture in known
        assert model.parameters is not None
    refused = [one for one in plan(ROOT / "manifests" / "full.yaml").decisions if "not known before" in one]
    assert refused == []


@pytest.mark.parametrize("name", ["paper-generalization", "paper-int8", "full", "track2-offline"])
def test_track_2_takes_the_perplexity_at_full_context(name: str) -> None:
    manifest = read_manifest(ROOT / "manifests" / f"{name}.yaml")
    expectation = expect(Track.GENERALIZATION, ["m"], scoring=manifest.scoring)
    assert expectation.parts == {"perplexity": ("wikitext2-maxctx",)}
    assert manifest.evaluate is not None
    assert all(parts_of_task(task, manifest.scoring) for task in manifest.evaluate.tasks)


def test_the_small_one_has_every_method_setting_and_library_that_a_cpu_has() -> None:
    whole, small = (read_manifest(ROOT / "manifests" / f"{name}.yaml") for name in ("full", "full-small"))
    assert entries(small) == entries(whole)
    assert small.benchmark is not None
    on_cpu = {name for name, (image, _) in CATALOG.backends.items() if DeviceKind.CPU in image.description.devices}
    assert set(small.benchmark.backends) == on_cpu
    assert small.evaluate is not None
    assert set(expected_tasks(small.scoring)) == set(small.evaluate.tasks)


def test_a_substitutes_local_files_go_along_where_the_data_set_has_none(tmp_path: Path) -> None:
    known = {one.name: one for one in CATALOG.images["fetch"].description.datasets}
    local = tmp_path / known["c4"].splits["train"].local
    local.parent.mkdir()
    local.write_bytes(b"rows")
    stood_in = dataset_source("pile", known, tmp_path, "c4")
    assert (stood_in.substitute, set(stood_in.files)) == ("c4", {known["c4"].splits["train"].local})
    own = dataset_source("c4", known, tmp_path, "boolq")
    assert (own.substitute, set(own.files)) == (None, {known["c4"].splits["train"].local})
    assert dataset_source("c4", known, None, "c4").substitute is None
    assert dataset_source("pile", known, None, "c4").files == {}
