"""A slice of a task's items: drawn once for all, scored once, and used by every larger one."""

import threading
from dataclasses import replace

import pytest

from harness.contract import EvaluateParameters, Operation, Slice
from orchestrator.evidence.items import NoInterval, items_of
from orchestrator.evidence.reading import read_evidence
from orchestrator.evidence.resampling import Resampling, pair
from orchestrator.evidence.value import DENSE
from orchestrator.run.progress import SilentDisplay
from orchestrator.run.run import Run
from orchestrator.run.scheduling import LocalExecutor
from orchestrator.score.ratio import ratio_at
from orchestrator.store import FailureKind, StageStatus
from orchestrator.store.cleaning import clean
from orchestrator.tracks import Track
from tests.support.fake_runtime import FakeRuntime
from tests.support.racing_worker import ITEMS, RacingWorker, right
from tests.support.small_runs import CATALOG, MANIFEST, Bench

ASKED = {**MANIFEST, "evaluate": {"tasks": ["arc_easy"]}, "profile": None, "benchmark": None}
DENSE_STAGE, PRUNED = "evaluate/tiny/dense/arc_easy", "evaluate/tiny/sparsegpt-50%/arc_easy"


def run(bench, worker, **slices):
    """The manifest's evaluations with these slices, by the names `dense` and `pruned`, of so many items."""
    setup = bench.setup(FakeRuntime(worker), ASKED)
    asked = {DENSE_STAGE: slices.get("dense"), PRUNED: slices.get("pruned")}

    def sliced(stage):
        if stage.operation is not Operation.EVALUATE:
            return stage
        count = asked[stage.id]
        drawn = None if count is None else Slice(items=count)
        return replace(stage, parameters=stage.parameters.model_copy(update={"slice": drawn}))

    plan = replace(setup.plan, stages=tuple(map(sliced, setup.plan.stages)))
    stop = threading.Event()
    return Run(replace(setup, plan=plan), SilentDisplay(), stop).perform(LocalExecutor(stop))


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "store")


def test_slices_are_nested_and_the_order_is_what_it_always_was():
    assert [Slice(items=4).numbers(20), Slice(items=4, seed=1).numbers(20)] == [(4, 10, 14, 16), (0, 3, 11, 18)]
    smaller, larger = (set(Slice(items=count).numbers(500)) for count in (50, 200))
    assert smaller < larger < set(range(500))
    assert Slice(items=30).numbers(20) == tuple(range(20))


def test_a_larger_slice_and_all_items_use_what_a_smaller_one_scored(bench):
    worker = RacingWorker()
    for count, total in ((100, 100), (400, 400), (200, 400), (None, ITEMS)):
        record = run(bench, worker, dense=count, pruned=count)
        assert record.complete
        assert worker.scored == {(None, "arc_easy"): total, ("sparsegpt", "arc_easy"): total}
    assert list(bench.store.resumable.iterdir()) == []
    again = RacingWorker()
    run(bench, again, dense=400, pruned=100)
    assert again.requests == [], "slices are results of their own"


def test_what_slices_scored_is_kept_by_cleaning_as_long_as_a_run_has_them(bench):
    worker = RacingWorker()
    run(bench, worker, dense=100, pruned=100)
    clean(bench.store)
    run(bench, worker, dense=200, pruned=200)
    assert worker.scored[None, "arc_easy"] == 200
    for name in bench.store.runs.names():
        clean(bench.store, drop_run=name)
    run(bench, worker, dense=100, pruned=100)
    assert worker.scored[None, "arc_easy"] > 200


def test_a_variant_on_a_slice_is_held_against_dense_on_the_same_items(bench):
    record = run(bench, RacingWorker(), dense=None, pruned=300)
    evidence = read_evidence(record, bench.store, CATALOG, Resampling(resamples=1000))
    (place,) = {one.place for one in evidence.values if one.place.track is Track.PERFORMANCE}
    pruned = evidence.values.get(place, evidence.variant("sparsegpt"))
    assert (pruned.items, evidence.values.get(place, DENSE).items) == (300, ITEMS)
    assert pruned.protocol.endswith(", 300 of 1000 drawn")
    numbers = Slice(items=300).numbers(ITEMS)
    dense, own = ([right("arc_easy", method)[number] for number in numbers] for method in (None, "sparsegpt"))
    term = ratio_at(evidence.values, place, pruned.variant, place.part, evidence.draws)
    assert term.ratio == pytest.approx(sum(own) / sum(dense))
    assert term.items == 300
    assert term.interval is not None


def test_slices_that_do_not_hold_each_other_are_not_compared(bench):
    record = run(bench, RacingWorker(), dense=100, pruned=100)
    one, _ = (items_of(found, "acc_norm") for found in read_evidence(record, bench.store, CATALOG).outcomes.values())
    shifted = replace(one, identity="other", names=one.names + 1)
    with pytest.raises(NoInterval, match="not of the same items"):
        pair(0.5, one, 0.5, shifted)


@pytest.mark.parametrize(
    ("forged", "words"),
    [
        ({"drawn_from": None}, "drawn_from says nothing"),
        ({"drawn_from": 500}, "item"),
        ({"drawn_from": 4000}, "drawn_from says 4000 of 1000 items"),
    ],
)
def test_a_slice_of_other_items_than_are_due_is_refused(bench, forged, words):
    honest = RacingWorker()

    def worker(request, output):
        result = honest(request, output)
        return result.model_copy(update=forged) if isinstance(request.parameters, EvaluateParameters) else result

    record = run(bench, worker, dense=100, pruned=100)
    state = record.stages[DENSE_STAGE]
    assert (state.status, state.failure.kind) == (StageStatus.FAILED, FailureKind.CONTRACT_VIOLATION)
    assert words in state.failure.message
