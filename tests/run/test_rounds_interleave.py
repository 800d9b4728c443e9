"""Rounds run in the order of the plan, when all that they compare is made; what fails in one holds up no other."""

import pytest

from harness.contract import BenchmarkRequest, CompressRequest
from orchestrator.store import StageStatus
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker, is_pruned

METHODS = [{"method": "sparsegpt", "setting": "50%"}, {"method": "wanda", "setting": "50%"}]
ROUNDS = {**MANIFEST, "compress": METHODS, "evaluate": None, "rounds": {"benchmark": 2, "profile": 1}}
SIZE = len(METHODS) + 2


def test_a_round_ends_before_the_next_begins_and_none_before_all_is_made(bench: Bench) -> None:
    runtime = FakeRuntime(honest_worker)
    record = bench.run(runtime, ROUNDS)
    assert record.complete
    kinds = [type(request) for request in runtime.requests]
    first = kinds.index(BenchmarkRequest)
    assert CompressRequest not in kinds[first:]
    names = [request.id for request in runtime.requests if isinstance(request, BenchmarkRequest)]
    rounds = [name.rpartition("/")[2].removesuffix("-again") for name in names]
    assert rounds == ["round-1"] * SIZE + ["round-2"] * SIZE
    dense = [position for position, name in enumerate(names) if "/dense/" in name]
    assert dense == [0, SIZE - 1, SIZE, 2 * SIZE - 1]


@pytest.mark.parametrize("operation", [BenchmarkRequest, CompressRequest])
def test_what_fails_in_a_round_holds_up_no_other(bench: Bench, operation) -> None:
    def worker(request, output):
        pruned = isinstance(request, BenchmarkRequest) and is_pruned(request)
        compressing = isinstance(request, CompressRequest) and request.parameters.method == "sparsegpt"
        if isinstance(request, operation) and (pruned or compressing):
            raise RuntimeError("no")
        return honest_worker(request, output)

    record = bench.run(FakeRuntime(worker), ROUNDS)
    found = {name: state.status for name, state in record.stages.items() if name.startswith("benchmark/")}
    lost = {name for name, status in found.items() if status is not StageStatus.DONE}
    assert lost == {f"benchmark/tiny/sparsegpt-50%/transformers/round-{number}" for number in (1, 2)}


def test_more_rounds_later_measure_those_alone(bench: Bench) -> None:
    bench.run(FakeRuntime(honest_worker), {**ROUNDS, "rounds": {"benchmark": 1, "profile": 1}})
    more = FakeRuntime(honest_worker)
    record = bench.run(more, ROUNDS)
    assert record.complete
    assert len(more.requests) == 2 * SIZE - (len(METHODS) + 1), "the first of each was measured before"
