"""What a manifest asks of fidelity: which stages that makes, what is believed of them, and what is shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.contract import (
    ARTIFACT_NAME,
    Device,
    FidelityParameters,
    FidelityResult,
    Operation,
    StatesParameters,
    StatesResult,
    WorkRequest,
    WorkResult,
    describe_tree,
)
from harness.contract.artifact import DESCRIPTOR_NAME
from orchestrator.errors import BadManifest
from orchestrator.evidence.reading import read_evidence
from orchestrator.evidence.value import Variant
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.report.building import build_report
from orchestrator.report.pages import render_html, render_markdown
from orchestrator.report.terminal import summary_text
from orchestrator.run import resources
from orchestrator.score.scores import score_run
from orchestrator.stages import Plan, StageOutput
from orchestrator.store import FailureKind, RunRecord, StageStatus
from tests.support.fake_runtime import FakeRuntime
from tests.support.safetensors_files import bf16, write_safetensors
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker, keeping_worker, write_descriptor

EVALUATE = {"tasks": ["wikitext2", "arc_easy"], "fidelity": ["wikitext2"], "limit": 60}
ASKED = {**MANIFEST, "profile": None, "benchmark": None, "evaluate": EVALUATE}
STATES, COMPARED = "states/tiny/dense/wikitext2", "fidelity/tiny/sparsegpt-50%/wikitext2"
PRUNED = Variant(method="sparsegpt", setting="50%")


@pytest.fixture
def bench(tmp_path: Path, catalog: ImageCatalog, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(resources, "device_lock_path", lambda name: tmp_path / f"device-{name}.lock")
    return Bench(tmp_path / "store", catalog=catalog)


@pytest.fixture(scope="module")
def catalog() -> ImageCatalog:
    return Bench(Path("none")).catalog


def plan_of(catalog: ImageCatalog, **changes: object) -> Plan:
    return build_plan(Manifest.model_validate({**ASKED, **changes}), catalog, Device(threads=1), None)


def test_the_dense_models_states_are_made_once_and_read_by_every_comparison(catalog: ImageCatalog) -> None:
    compress = [{"method": "sparsegpt", "setting": "50%"}, {"method": "magnitude", "setting": "50%"}]
    plan = plan_of(catalog, compress=compress)
    states = plan.stage(STATES)
    assert states.inputs == {"checkpoint": StageOutput("fetch/tiny"), "dataset": StageOutput("data/wikitext2")}
    assert states.parameters == StatesParameters(task="wikitext2", limit=60)
    compared = [stage for stage in plan.stages if stage.operation is Operation.FIDELITY]
    assert [stage.id for stage in compared] == [COMPARED, "fidelity/tiny/magnitude-50%/wikitext2"]
    for stage in compared:
        assert stage.inputs["states"] == StageOutput(STATES)
        assert stage.parameters == FidelityParameters(task="wikitext2", limit=60)
    assert compared[0].inputs["checkpoint"] == StageOutput("compress/tiny/sparsegpt-50%")


def test_nothing_of_it_is_planned_where_nothing_is_compressed_or_asked_for(catalog: ImageCatalog) -> None:
    for changes in ({"compress": []}, {"evaluate": {**EVALUATE, "fidelity": []}}):
        operations = {stage.operation for stage in plan_of(catalog, **changes).stages}
        assert not operations & {Operation.STATES, Operation.FIDELITY}


def test_a_choice_task_and_one_that_is_not_listed_are_refused(catalog: ImageCatalog) -> None:
    with pytest.raises(BadManifest, match="arc_easy is a task of choices, and fidelity is measured over text"):
        plan_of(catalog, evaluate={**EVALUATE, "fidelity": "arc_easy"})
    with pytest.raises(ValidationError, match="over 'wikitext3', which tasks does not list; did you mean 'wikitext2'"):
        Manifest.model_validate({**ASKED, "evaluate": {**EVALUATE, "fidelity": ["wikitext3"]}})


def test_an_engine_is_held_against_the_references_states_dense_included(catalog: ImageCatalog) -> None:
    plan = plan_of(catalog, evaluate={**EVALUATE, "engine": ["transformers", "vllm"]})
    compared = {stage.id: stage for stage in plan.stages if stage.operation is Operation.FIDELITY}
    assert set(compared) == {COMPARED, "fidelity/tiny/dense/wikitext2/vllm", f"{COMPARED}/vllm"}
    assert [stage.id for stage in plan.stages if stage.operation is Operation.STATES] == [STATES]
    for name, stage in compared.items():
        engine = "vllm" if name.endswith("vllm") else "transformers"
        assert stage.image == ("vllm" if engine == "vllm" else "evaluate")
        assert stage.parameters == FidelityParameters(task="wikitext2", limit=60, engine=engine)
        assert stage.inputs["states"] == StageOutput(STATES)


def test_an_engine_is_not_asked_for_what_it_cannot_read(catalog: ImageCatalog) -> None:
    plan = plan_of(
        catalog,
        compress=[{"method": "smoothquant"}],
        evaluate={**EVALUATE, "engine": ["mlc-llm", "vllm"]},
    )
    compared = [stage.id for stage in plan.stages if stage.operation is Operation.FIDELITY]
    assert compared == ["fidelity/tiny/dense/wikitext2/vllm", "fidelity/tiny/smoothquant-W8A8/wikitext2/vllm"]
    refused = {(one.backend, one.task) for one in plan.not_planned if one.operation is Operation.EVALUATE}
    assert ("mlc-llm", None) in refused


def test_the_page_says_by_what_and_how_much_of_a_distribution(bench: Bench) -> None:
    def worker(request: WorkRequest, output: Path) -> WorkResult:
        made = keeping_worker(request, output)
        if isinstance(made, FidelityResult) and made.engine == "vllm":
            return made.model_copy(update={"protocol": made.protocol.replace("/kl/", "/kl-top20/")})
        return made

    asked = {**ASKED, "evaluate": {**EVALUATE, "engine": ["transformers", "vllm"]}}
    record = bench.run(FakeRuntime(worker), asked)
    assert {state.status for state in record.stages.values()} == {StageStatus.DONE}
    texts = read_evidence(record, bench.store, bench.catalog).fidelity.texts
    assert sorted((one.variant.label, one.engine, one.protocol) for one in texts) == [
        ("dense", "vllm", "vllm/kl-top20/ppl/test"),
        ("sparsegpt 50%", "transformers", "kl/ppl/test"),
        ("sparsegpt 50%", "vllm", "vllm/kl-top20/ppl/test"),
    ]
    page = render_markdown(build_report(record, bench.store, bench.catalog))
    assert "wikitext2 by vllm, at least (the 20 likeliest tokens)" in page


def test_what_is_excluded_is_not_compared(catalog: ImageCatalog) -> None:
    compress = [{"method": "sparsegpt", "setting": "50%"}, {"method": "magnitude", "setting": "50%"}]
    plan = plan_of(catalog, compress=compress, exclude=[{"task": "wikitext2", "method": "magnitude"}])
    assert [stage.id for stage in plan.stages if stage.operation is Operation.FIDELITY] == [COMPARED]


def test_a_run_reports_divergences_and_flips(bench: Bench) -> None:
    record = bench.run(FakeRuntime(keeping_worker), ASKED)
    assert {state.status for state in record.stages.values()} == {StageStatus.DONE}
    evidence = read_evidence(record, bench.store, bench.catalog)
    (text,), (flips,) = evidence.fidelity.texts, evidence.fidelity.flips
    assert (text.variant, text.task, text.protocol, text.segments, text.tokens) == (
        PRUNED, "wikitext2", "kl/ppl/test", 4, 12,
    )  # fmt: skip
    assert text.figures["kl_mean"].value == pytest.approx(0.065)
    assert text.figures["kl_p99"].value == 0.12
    assert text.figures["kl_mean"].interval.low < 0.065 < text.figures["kl_mean"].interval.high
    assert text.figures["right_probability_change"].value == pytest.approx(-0.1)
    # dense has every second of 60 right; a pruned model loses every third of these
    assert (flips.task, flips.items, flips.right_to_wrong, flips.wrong_to_right, flips.other_pick) == (
        "arc_easy", 60, 10, 0, 0,
    )  # fmt: skip
    assert flips.share.value == pytest.approx(1 / 6)
    assert flips.p_value == pytest.approx(2 / 2**10)
    document = json.loads(score_run(evidence).model_dump_json())
    assert document["fidelity"]["texts"][0]["figures"]["kl_mean"]["value"] == pytest.approx(0.065)
    report = build_report(record, bench.store, bench.catalog)
    for page in (render_markdown(report), render_html(report), summary_text(report, width=200)):
        assert "Divergence from dense, over text" in page
        assert "Flips: other picks than those of dense" in page
        assert "0.065" in page
        assert "a smaller divergence no longer means a better score" in " ".join(page.split())


def test_a_run_without_it_shows_no_such_section(bench: Bench) -> None:
    evaluate = {"tasks": ["wikitext2"]}
    report = build_report(
        bench.run(FakeRuntime(keeping_worker), {**ASKED, "evaluate": evaluate}), bench.store, bench.catalog
    )
    assert "Divergence from dense" not in render_html(report)


def test_a_comparison_that_failed_says_why(bench: Bench) -> None:
    def worker(request: WorkRequest, output: Path) -> WorkResult:
        if request.operation == "fidelity":
            raise ValueError("no luck")
        return keeping_worker(request, output)

    record = bench.run(FakeRuntime(worker), ASKED)
    (text,) = read_evidence(record, bench.store, bench.catalog).fidelity.texts
    assert (text.figures, text.segments) == ({}, 0)
    assert "no luck" in str(text.reason)
    assert "no luck" in render_markdown(build_report(record, bench.store, bench.catalog))


def lying(operation: str, lie: Callable[[Any, Path], WorkResult]) -> Callable[[WorkRequest, Path], WorkResult]:
    def worker(request: WorkRequest, output: Path) -> WorkResult:
        made = honest_worker(request, output)
        return lie(made, output) if request.operation == operation else made

    return worker


def failure_of(bench: Bench, stage: str, worker: Callable[[WorkRequest, Path], WorkResult]) -> str:
    record: RunRecord = bench.run(FakeRuntime(worker), ASKED)
    failure = record.stages[stage].failure
    assert failure is not None
    assert failure.kind in (FailureKind.CONTRACT_VIOLATION, FailureKind.BAD_ARTIFACT)
    return failure.message


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"metrics": "kl_mean"}, "kl_mean is said to be 7, and the outcomes of its items give 0.065"),
        ({"tokens": 13}, "13 tokens are said to be scored, and there are 12"),
        ({"items": 3}, "result.items is 3, and 4 was asked for"),
        ({"states": "0" * 64}, "result.states is"),
        ({"task": "arc_easy"}, "result.task is 'arc_easy', and 'wikitext2' was asked for"),
        ({"engine": "vllm"}, "result.engine is 'vllm', and 'transformers' was asked for"),
        ({"protocol": "kl/ppl/other"}, "result.protocol is 'kl/ppl/other', and 'kl/ppl/test' was asked for"),
    ],
)
def test_a_comparison_that_its_items_do_not_bear_out_is_not_believed(
    bench: Bench, said: dict[str, Any], words: str
) -> None:
    def lie(made: FidelityResult, output: Path) -> WorkResult:
        if "metrics" in said:
            return made.model_copy(update={"metrics": {**made.metrics, said["metrics"]: 7.0}})
        return made.model_copy(update=said)

    assert words in failure_of(bench, COMPARED, lying("fidelity", lie))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"tokens": 11}, "tokens is 11, and by the tensors it is 12"),
        ({"hidden_size": 3}, "hidden_size is 3, and by the tensors it is 2"),
        ({"vocabulary_size": 9}, "vocabulary_size is (9, 2), and by the tensors it is (8, 2)"),
        ({"requests": 5}, "requests is 5, and by the tensors it is states.4"),
        ({"checkpoint": "0" * 64}, "artifact.checkpoint"),
    ],
)
def test_states_that_are_not_as_described_are_not_believed(bench: Bench, said: dict[str, Any], words: str) -> None:
    def lie(made: StatesResult, output: Path) -> WorkResult:
        artifact = write_descriptor(output / ARTIFACT_NAME, made.artifact.model_copy(update=said))
        return made.model_copy(update={"artifact": artifact})

    assert words in failure_of(bench, STATES, lying("states", lie))


def test_states_bring_tensors_alone(bench: Bench) -> None:
    def lie(made: StatesResult, output: Path) -> WorkResult:
        folder = output / ARTIFACT_NAME
        write_safetensors(folder / "more.safetensors.txt", {"one": bf16([1])})
        files = describe_tree(folder, leave_out=frozenset({DESCRIPTOR_NAME}))
        artifact = write_descriptor(folder, made.artifact.model_copy(update={"files": files}))
        return made.model_copy(update={"artifact": artifact})

    assert "more.safetensors.txt is no safetensors file" in failure_of(bench, STATES, lying("states", lie))
