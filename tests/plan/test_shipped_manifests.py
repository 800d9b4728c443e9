"""The manifests that come with the project can be planned as they stand, and ask for what their tracks need."""

from pathlib import Path

import pytest

from harness.contract import Device, FetchParameters, HubModel
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import read_manifest
from orchestrator.manifest.sources import dataset_source
from orchestrator.plan import build_plan
from orchestrator.plan.choices import check_choices
from orchestrator.score.paper.tables import load_table
from orchestrator.stages import Plan
from orchestrator.tracks import Track, expect, expected_tasks, parts_of_task

ROOT = Path(__file__).parents[2]
CATALOG = ImageCatalog(ROOT / "images")
MANIFESTS = sorted((ROOT / "manifests").glob("*.yaml"))


def plan(path: Path, data: Path | None = None) -> Plan:
    return build_plan(read_manifest(path), CATALOG, Device(threads=1), data)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_manifest_can_be_planned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    manifest = read_manifest(path)
    check_choices(manifest.scoring, {name: task for name, (_, task) in CATALOG.tasks.items()})
    assert manifest.name == path.stem
    assert len({stage.id for stage in plan(path).stages}) == len(plan(path).stages)


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


def test_the_papers_manifest_names_the_models_and_families_of_its_table() -> None:
    manifest = read_manifest(ROOT / "manifests" / "track2.yaml")
    rows = {row.model: row.family for row in load_table("track2").rows}
    assert {model.name: model.family for model in manifest.models} == rows
    methods = {row.method for row in load_table("track2").rows if row.method is not None}
    baselines = {name for name, (_, method) in CATALOG.methods.items() if method.baseline}
    assert {entry.method for entry in manifest.compress} == methods | baselines


def test_every_model_of_the_papers_manifest_is_pinned() -> None:
    stages = plan(ROOT / "manifests" / "track2.yaml").stages
    sources = [one.parameters.source for one in stages if isinstance(one.parameters, FetchParameters) and one.subject]
    assert len(sources) == 18
    assert all(isinstance(source, HubModel) and len(source.revision) == 40 for source in sources)


@pytest.mark.parametrize("name", ["track2", "track2-offline"])
def test_track_2_takes_the_perplexity_at_full_context(name: str) -> None:
    manifest = read_manifest(ROOT / "manifests" / f"{name}.yaml")
    expectation = expect(Track.GENERALIZATION, ["m"], scoring=manifest.scoring)
    assert expectation.parts == {"perplexity": ("wikitext2-maxctx",)}
    assert manifest.evaluate is not None
    assert all(parts_of_task(task, manifest.scoring) for task in manifest.evaluate.tasks)


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
