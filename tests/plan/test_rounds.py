"""Measurements that have a spread are planned in rounds: dense, the others in any order, dense again."""

import pytest

from harness.contract import Operation
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.run.keys import key_material, stage_key
from orchestrator.stages import Turn
from tests.support.small_runs import CPU, IMAGES, MANIFEST, Bench

METHODS = ["sparsegpt", "wanda", "gptq", "awq"]
DENSE = "dense"


def plan_of(bench: Bench, rounds, methods=METHODS, **changed):
    entries = [{"method": method} for method in methods]
    manifest = Manifest.model_validate({**MANIFEST, "compress": entries, "rounds": rounds, **changed})
    return build_plan(manifest, bench.catalog, CPU.device, None)


def of(plan, operation):
    return [stage for stage in plan.stages if stage.operation is operation]


def who(stage):
    return stage.subject.method or DENSE


def test_each_round_begins_and_ends_with_dense_and_has_all_others_between(bench: Bench) -> None:
    plan = plan_of(bench, {"benchmark": 4, "profile": 2})
    for operation, rounds in ((Operation.BENCHMARK, 4), (Operation.PROFILE, 2)):
        stages = of(plan, operation)
        size = len(METHODS) + 2
        assert len(stages) == rounds * size
        for number in range(rounds):
            one = stages[number * size : (number + 1) * size]
            assert [who(one[0]), who(one[-1])] == [DENSE, DENSE]
            assert sorted(map(who, one[1:-1])) == sorted(METHODS)
            assert [stage.turn for stage in one[:-1]] == [Turn(round=number + 1)] * (size - 1)
            assert one[-1].turn == Turn(round=number + 1, again=True)


def test_the_order_within_a_round_is_drawn_and_the_same_for_the_same_manifest(bench: Bench) -> None:
    orders = [tuple(map(who, of(plan_of(bench, {"benchmark": 6}), Operation.BENCHMARK))) for _ in range(2)]
    assert orders[0] == orders[1]
    rounds = {orders[0][begin : begin + 6] for begin in range(0, 36, 6)}
    assert len(rounds) > 1


def test_a_round_waits_until_all_is_made_and_each_measurement_for_the_one_before(bench: Bench) -> None:
    stages = of(plan_of(bench, {"benchmark": 2}), Operation.BENCHMARK)
    assert set(stages[0].after) == {"fetch/tiny", *(f"compress/tiny/{name}" for name in made_by(bench))}
    assert [stage.after for stage in stages[1:]] == [(stage.id,) for stage in stages[:-1]]


def made_by(bench):
    plan = plan_of(bench, {})
    return [stage.id.removeprefix("compress/tiny/") for stage in of(plan, Operation.COMPRESS)]


def test_one_round_measures_once_and_waits_for_nothing(bench: Bench) -> None:
    plan = plan_of(bench, {"benchmark": 1, "profile": 1})
    for operation in (Operation.BENCHMARK, Operation.PROFILE, Operation.COMPRESS):
        stages = of(plan, operation)
        assert len(stages) == len(METHODS) + (operation is not Operation.COMPRESS)
        assert {(stage.turn, stage.after) for stage in stages} == {(None, ())}


def test_of_compressions_in_rounds_the_first_is_what_others_read(bench: Bench) -> None:
    plan = plan_of(bench, {"compress": 3, "benchmark": 1}, methods=["wanda", "gptq"])
    stages = of(plan, Operation.COMPRESS)
    assert [stage.turn.round for stage in stages] == [1, 1, 2, 2, 3, 3]
    read = {stage.inputs["checkpoint"].stage for stage in of(plan, Operation.BENCHMARK)}
    assert read == {"fetch/tiny", *(stage.id for stage in stages[:2])}


def test_each_turn_has_a_key_of_its_own_and_the_first_that_of_a_plan_without_rounds(bench: Bench) -> None:
    image = bench.catalog.images["transformers"].description

    def key(stage):
        return stage_key(key_material(stage, image, None, {"checkpoint": "0" * 64}, "a device"))

    once = [key(stage) for stage in of(plan_of(bench, {"benchmark": 1}), Operation.BENCHMARK) if who(stage) == DENSE]
    turns = [key(stage) for stage in of(plan_of(bench, {"benchmark": 3}), Operation.BENCHMARK) if who(stage) == DENSE]
    more = [key(stage) for stage in of(plan_of(bench, {"benchmark": 5}), Operation.BENCHMARK) if who(stage) == DENSE]
    assert len(set(turns)) == 6
    assert turns[:1] == once
    assert turns == more[:6], "more rounds measure none again"


def test_a_method_more_leaves_the_keys_of_the_others_as_they_are(bench: Bench) -> None:
    image = bench.catalog.images["transformers"].description

    def keys(methods):
        stages = of(plan_of(bench, {"benchmark": 3}, methods=methods), Operation.BENCHMARK)
        material = {stage.id: key_material(stage, image, None, {}, "a device") for stage in stages}
        return {name: stage_key(one) for name, one in material.items()}

    fewer, more = keys(["wanda"]), keys(["wanda", "gptq"])
    assert fewer.items() < more.items()


@pytest.mark.parametrize("name", ["quick.yaml", "methods.yaml"])
def test_the_shipped_comparisons_are_measured_in_rounds(name: str) -> None:
    from orchestrator.manifest.reading import read_manifest

    rounds = read_manifest(IMAGES.parent / "manifests" / name).rounds
    assert (rounds.benchmark, rounds.profile, rounds.compress) == (3, 3, 1)
