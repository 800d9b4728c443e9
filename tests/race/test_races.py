"""`orchestrator race` on the fake runtime: what it measures, in which order, what it answers, and how it goes on."""

import json
from functools import partial

import pytest
from typer.testing import CliRunner

from harness.contract import EvaluateRequest, Operation
from orchestrator.cli import racing
from orchestrator.cli.app import app
from orchestrator.decide.answer import Decision
from orchestrator.decide.answering import decide_run
from orchestrator.decide.limits import Standing
from orchestrator.errors import BadManifest, CommandExit, Interrupted
from orchestrator.evidence.reading import read_evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.manifest.deciding import Quantity
from orchestrator.race import conducting
from orchestrator.race.conducting import race
from orchestrator.run.progress import SilentDisplay
from orchestrator.run.scheduling import LocalExecutor
from orchestrator.store import StageStatus
from tests.support.fake_runtime import FakeRuntime, Misbehaviour
from tests.support.racing_worker import ITEMS, RacingWorker
from tests.support.small_runs import CATALOG, MANIFEST, Bench

DECIDE = {"max_loss": "5%", "prefer": {"memory": 1, "loss": 1}}
ASKED = {
    **MANIFEST,
    "compress": [{"method": method, "setting": "50%"} for method in ("sparsegpt", "wanda", "magnitude")],
    "evaluate": {"tasks": ["wikitext2", "arc_easy", "piqa"]},
    "rounds": {"benchmark": 2, "profile": 1},
    "decide": DECIDE,
}
FEW = Resampling(resamples=1000)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "store")


def raced(bench, worker, decide=DECIDE, display=None, misbehave=lambda _: None, **more):
    runtime = FakeRuntime(worker, misbehave=misbehave)
    setup = bench.setup(runtime, {**ASKED, "decide": decide})
    return race(setup, display or SilentDisplay(), resampling=FEW, **more), runtime


def operations(runtime, *wanted):
    return [request.operation for request in runtime.requests if request.operation in wanted]


def test_a_race_gives_the_full_runs_answer_for_fewer_items_and_the_full_run_uses_them(bench):
    worker = RacingWorker()
    found, _ = raced(bench, worker)
    (answer,) = found.decision.answers
    assert found.decided
    assert answer.recommended.label == "sparsegpt 50% through transformers"
    assert {one.choice.variant.label: one.standing for one in answer.candidates}["wanda 50%"] is Standing.EXCLUDED
    assert answer.chosen.amount(Quantity.LOSS).interval is not None
    spent = found.decision.race.spent
    assert spent.evaluations == worker.scored.total() < spent.evaluations_of_all / 3
    assert spent.evaluations_of_all == 2 * 4 * ITEMS
    full = bench.run(FakeRuntime(worker), ASKED)
    (of_all,) = decide_run(read_evidence(full, bench.store, CATALOG, FEW), found.decision.asked).answers
    assert of_all.recommended == answer.recommended
    assert {count for (_, task), count in worker.scored.items() if task != "wikitext2"} == {ITEMS}


def test_what_is_cheap_comes_first_and_only_dense_is_scored_where_it_guesses(bench):
    found, runtime = raced(bench, RacingWorker())
    order = operations(runtime, Operation.PROFILE, Operation.BENCHMARK, Operation.EVALUATE)
    assert order == sorted(order, key=["profile", "benchmark", "evaluate"].index)
    states = {name: one for name, one in found.record.stages.items() if one.operation is Operation.EVALUATE}
    assert [name for name in states if "piqa" in name] == ["evaluate/tiny/dense/piqa"]
    assert not any("wikitext2" in name for name in states)
    sizes = {name.split("/")[2]: one.parameters["slice"]["items"] for name, one in states.items() if "arc" in name}
    assert sizes["wanda-50%"] == sizes["magnitude-50%"] == 100 < sizes["sparsegpt-50%"]
    assert any("wanda 50% is set aside, since it loses" in line for line in found.record.decisions)


def test_what_its_costs_rule_out_is_neither_timed_nor_scored(bench):
    found, runtime = raced(bench, RacingWorker(), {**DECIDE, "max_disk": "0.01kB"})
    assert found.decided
    assert operations(runtime, Operation.EVALUATE) == []
    (answer,) = found.decision.answers
    assert (answer.recommended, found.decision.race.spent.evaluations) == (None, 0)
    assert not any("50%" in request.id for request in runtime.requests if request.operation == "benchmark")
    by_memory, runtime = raced(bench, RacingWorker(), {**DECIDE, "max_memory": "1.3kB"})
    assert by_memory.decided
    assert by_memory.decision.answers[0].recommended is None
    assert all("sparsegpt" not in request.id for request in runtime.requests if request.operation == "evaluate")


class Stopped(LocalExecutor):
    """Is interrupted by hand before its fourth round."""

    rounds = 0

    def run(self, *arguments, **more):
        self.rounds += 1
        if self.rounds == 4:
            raise KeyboardInterrupt
        super().run(*arguments, **more)


def test_interrupted_by_hand_it_goes_on_in_the_same_record_and_scores_nothing_twice(bench, tmp_path):
    worker = RacingWorker()
    with pytest.raises(Interrupted, match="what was finished is kept"):
        raced(bench, worker, executor=Stopped)
    (name,) = bench.store.runs.names()
    assert bench.store.runs.read(name).interrupted
    found, _ = raced(bench, worker)
    whole = RacingWorker()
    at_once, _ = raced(Bench(tmp_path / "other"), whole)
    assert (found.record.run, worker.scored) == (name, whole.scored)
    assert found.record.ended is not None
    assert found.decision.answers == at_once.decision.answers
    assert found.decision.race.models == at_once.decision.race.models


def test_a_budget_ends_it_with_the_answer_so_far_and_what_is_open(bench, monkeypatch):
    """The time is up while dense's second slice of piqa is scored, which never ends."""
    time_is_up = []

    class Timer:
        def __init__(self, seconds, function):
            time_is_up.append(function)

        def start(self):
            pass

        def cancel(self):
            pass

    def misbehave(request):
        if isinstance(request, EvaluateRequest) and request.parameters.slice.items == 200:
            time_is_up[-1]()
            return Misbehaviour.HANGS
        return None

    monkeypatch.setattr(conducting.threading, "Timer", Timer)
    worker = RacingWorker()
    found, _ = raced(bench, worker, misbehave=misbehave, budget_seconds=60.0)
    (answer,) = found.decision.answers
    assert not found.decided
    assert (found.record.ended, found.record.interrupted) == (None, True)
    assert found.record.stages["evaluate/tiny/dense/piqa"].parameters["slice"]["items"] == 100
    (of_model,) = found.decision.race.models
    assert [one.label for one in of_model.left] == ["sparsegpt 50%", "wanda 50%", "magnitude 50%"]
    assert answer.recommended.variant.is_dense
    later, _ = raced(bench, worker, budget_seconds=60.0)
    assert later.decided
    assert (later.record.run, later.record.ended is not None) == (found.record.run, True)


def test_what_cannot_be_scored_drops_out_with_its_reason(bench):
    def misbehave(request):
        is_pruned = isinstance(request, EvaluateRequest) and "wanda" in request.id
        return Misbehaviour.KILLED if is_pruned else None

    found, _ = raced(bench, RacingWorker(), misbehave=misbehave)
    (of_model,) = found.decision.race.models
    assert [one.variant.label for one in of_model.without] == ["wanda 50%"]
    assert found.decision.answers[0].recommended.variant.label == "sparsegpt 50%"
    assert found.record.stages["evaluate/tiny/wanda-50%/arc_easy"].status is StageStatus.FAILED


def test_what_a_full_run_scored_is_not_scored_again(bench):
    worker = RacingWorker()
    bench.run(FakeRuntime(worker), ASKED)
    before = worker.scored.total()
    found, runtime = raced(bench, worker)
    assert found.decided
    assert worker.scored.total() == before
    assert operations(runtime, Operation.PROFILE, Operation.BENCHMARK) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluate": {"tasks": ["wikitext2"]}}, "no task of track 1 with right answers"),
        ({"decide": {"prefer": {"loss": 1, "time": 1}}}, "none of memory, disk, speed is preferred"),
    ],
)
def test_a_manifest_with_nothing_to_race_or_to_decide_by_is_refused(bench, changes, words):
    runtime = FakeRuntime(RacingWorker())
    with pytest.raises(BadManifest, match=words):
        race(bench.setup(runtime, {**ASKED, **changes}), SilentDisplay())
    assert runtime.requests == []


@pytest.fixture
def command(bench, tmp_path, monkeypatch):
    """`orchestrator race` on the fake runtime; gives its result."""
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps({"schema_version": 1, **ASKED}), encoding="utf-8")
    runtime = FakeRuntime(RacingWorker())
    monkeypatch.setattr(conducting, "race", partial(race, resampling=FEW))

    def prepare(manifest, *_, warm):
        assert warm, "workers are fresh on request alone"
        return bench.setup(runtime, manifest.model_dump(mode="json"))

    monkeypatch.setattr(racing, "prepare", prepare)

    def run(*arguments):
        asked = ["race", str(path), *arguments, "--store", str(bench.root), "--progress", "none"]
        return CliRunner().invoke(app, asked)

    return run


def test_the_command_prints_the_sentence_first_then_what_it_saved(command):
    done = command("--max-loss", "6%")
    assert done.exit_code == CommandExit.COMPLETE, done.output
    text = " ".join(done.stdout.split())
    assert text.startswith("Use sparsegpt 50% through transformers for tiny: it loses")
    assert "certainly at most 6%" in text
    assert "of the 8 000 items times variants of the whole manifest" in text
    assert "by an estimate from these" in text


def test_the_command_prints_a_decision_as_a_document(command):
    decision = Decision.model_validate_json(command("--json").stdout)
    assert decision.answers[0].recommended.variant.label == "sparsegpt 50%"
    assert decision.race.decided


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", "soon"), "--budget 'soon' is no time"),
        (("--max-loss", "two"), "--max-loss: 'two' is no amount"),
        (("--batch", "7"), "batch is 7, which benchmark.batch_sizes does not list"),
    ],
)
def test_an_option_that_cannot_be_kept_is_refused(command, arguments, words):
    assert words in str(command(*arguments).exception)
