"""Models that depend on a beginning token are evaluated with it before every segment, dense and compressed alike."""

import json
from pathlib import Path

import pytest

from harness.contract import Device, EvaluateParameters
from harness.contract.tasks import BEGINNING_ARCHITECTURES
from orchestrator.evidence.reading import read_evidence
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.stages import Plan
from orchestrator.tracks import Track
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker

QUICK_TASKS = ["wikitext2", "arc_easy"]


def plan_of(bench: Bench, folder: Path, architecture: str, tasks: list[str], limit: object = None) -> Plan:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}), encoding="utf-8")
    models = [{"name": "tiny", "source": f"dir:{folder}"}]
    evaluate = {"tasks": tasks, "limit": limit}
    manifest = Manifest.model_validate({"name": "m", "models": models, "evaluate": evaluate})
    return build_plan(manifest, bench.catalog, Device(threads=1), None)


def tasks_of(plan: Plan) -> list[str]:
    return [stage.parameters.task for stage in plan.stages if isinstance(stage.parameters, EvaluateParameters)]


@pytest.mark.parametrize("architecture", BEGINNING_ARCHITECTURES)
def test_a_gemma_is_evaluated_with_its_beginning_token_and_the_plan_says_so(
    bench: Bench, tmp_path: Path, architecture: str
) -> None:
    plan = plan_of(bench, tmp_path / "model", architecture, QUICK_TASKS)
    assert tasks_of(plan) == ["wikitext2-bos", "arc_easy"]
    (decision,) = [one for one in plan.decisions if "beginning token" in one]
    assert decision.startswith("wikitext2-bos in place of wikitext2")
    assert decision.endswith("(tiny)")


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "MistralForCausalLM", "OPTForCausalLM", "GlmForCausalLM"])
def test_what_is_published_by_the_plain_protocol_keeps_it(bench: Bench, tmp_path: Path, architecture: str) -> None:
    assert tasks_of(plan_of(bench, tmp_path / "model", architecture, QUICK_TASKS)) == QUICK_TASKS


def test_a_manifest_that_names_both_has_both(bench: Bench, tmp_path: Path) -> None:
    tasks = ["wikitext2", "wikitext2-bos"]
    assert tasks_of(plan_of(bench, tmp_path / "model", "Gemma3ForCausalLM", tasks)) == tasks


def test_a_limit_of_the_task_that_was_asked_for_holds_for_the_one_in_its_place(bench: Bench, tmp_path: Path) -> None:
    plan = plan_of(bench, tmp_path / "model", "GemmaForCausalLM", QUICK_TASKS, {"wikitext2": 7})
    evaluations = [stage.parameters for stage in plan.stages if isinstance(stage.parameters, EvaluateParameters)]
    assert [(one.task, one.limit) for one in evaluations] == [("wikitext2-bos", 7), ("arc_easy", None)]


def names_of(bench: Bench, tasks: list[str]) -> dict[str, set[str]]:
    """The names of the values of tracks 1 and 2, by variant."""
    manifest = {**MANIFEST, "evaluate": {"tasks": tasks}, "profile": None, "benchmark": None}
    record = bench.run(FakeRuntime(honest_worker), manifest)
    evidence = read_evidence(record, bench.store, bench.catalog)
    found: dict[str, set[str]] = {}
    for value in evidence.values:
        if value.place.track in (Track.PERFORMANCE, Track.GENERALIZATION):
            found.setdefault(value.variant.label, set()).add(f"{value.place.part}/{value.place.name}")
    return found


def test_its_figure_counts_in_the_place_of_the_task_that_it_stands_for(bench: Bench) -> None:
    counted = {"inference/wikitext2", "perplexity/wikitext2"}
    assert names_of(bench, ["wikitext2-bos"]) == {"dense": counted, "sparsegpt 50%": counted}


def test_beside_that_task_itself_it_is_shown_and_not_counted(bench: Bench) -> None:
    shown = {"inference/wikitext2", "perplexity/wikitext2", "other/wikitext2-bos"}
    assert names_of(bench, ["wikitext2", "wikitext2-bos"]) == {"dense": shown, "sparsegpt 50%": shown}
