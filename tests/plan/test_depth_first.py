"""A plan comes depth first: a checkpoint is made right before its first reader, and each stage after what it needs."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import Device, FetchParameters, HubModel, Operation, ProfileParameters
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.plan.ordering import depth_first
from orchestrator.stages import Stage, StageOutput
from tests.support.small_runs import CATALOG

HUB = f"hub:org/name@{'0' * 40}"
MANIFEST = {
    "name": "deep",
    "models": [{"name": name, "source": HUB, "architecture": "LlamaForCausalLM"} for name in ("one", "two")],
    "compress": [{"method": "wanda", "setting": "50%"}, {"method": "rtn", "setting": "W4A16"}],
    "evaluate": {"tasks": ["wikitext2", "piqa"], "fidelity": ["wikitext2"]},
    "profile": {},
    "rounds": {"profile": 2},
}


def ids(**changes: object) -> list[str]:
    return [stage.id for stage in planned(**changes)]


def planned(**changes: object) -> Sequence[Stage]:
    return build_plan(Manifest.model_validate({**MANIFEST, **changes}), CATALOG, Device(), None).stages


def test_a_variant_is_done_with_before_the_next_is_made_and_rounds_come_when_all_are_there() -> None:
    found = [name for name in ids() if not name.startswith("data/")]
    assert found[: len(found) // 2] == [
        "fetch/one",
        "evaluate/one/dense/wikitext2",
        "evaluate/one/dense/piqa",
        "compress/one/wanda-50%",
        "evaluate/one/wanda-50%/wikitext2",
        "evaluate/one/wanda-50%/piqa",
        "states/one/dense/wikitext2",
        "fidelity/one/wanda-50%/wikitext2",
        "compress/one/rtn-W4A16",
        "evaluate/one/rtn-W4A16/wikitext2",
        "evaluate/one/rtn-W4A16/piqa",
        "fidelity/one/rtn-W4A16/wikitext2",
        *(name for name in found[: len(found) // 2] if name.startswith("profile/")),
    ]
    assert found[len(found) // 2] == "fetch/two"


def test_compressions_that_are_measured_again_come_last() -> None:
    found = [name for name in ids(rounds={"compress": 2, "profile": 1}) if "/one/" in name]
    again = [name for name in found if name.startswith("compress/") and name.endswith("round-2")]
    assert found[-len(again) :] == again


@pytest.mark.parametrize("rounds", [{"profile": 1}, {"profile": 3}, {"profile": 2, "compress": 3}])
def test_each_stage_comes_once_and_after_what_it_needs_and_waits_for(rounds: dict[str, int]) -> None:
    came: set[str] = set()
    for stage in planned(rounds=rounds):
        assert stage.id not in came
        assert came.issuperset((*stage.needs, *stage.after))
        came.add(stage.id)


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 30), max_size=3)), max_size=30))
def test_any_stages_are_all_there_and_in_order(drawn: list[tuple[bool, set[int]]]) -> None:
    stages: list[Stage] = []
    for number, (makes, needs) in enumerate(drawn):
        makers = [stages[need].id for need in sorted(needs) if need < number and stages[need].makes_artifact]
        parameters = (
            FetchParameters(source=HubModel(repository="o/m", revision="0" * 40)) if makes else ProfileParameters()
        )
        operation = Operation.FETCH if makes else Operation.PROFILE
        inputs = {f"input-{one}": StageOutput(one) for one in makers}
        after = tuple(stages[need].id for need in sorted(needs) if need < number and not stages[need].makes_artifact)
        stages.append(Stage(str(number), "image", operation, parameters, inputs, after=after))
    found = depth_first(stages)
    assert sorted(found, key=lambda stage: int(stage.id)) == stages
    for place, stage in enumerate(found):
        assert {one.id for one in found[:place]}.issuperset((*stage.needs, *stage.after))


def test_a_chain_of_any_length_costs_no_depth_of_calls() -> None:
    long = [
        Stage(str(number), "image", Operation.PROFILE, ProfileParameters(), after=(str(number - 1),) if number else ())
        for number in range(20_000)
    ]
    assert depth_first(long[::-1]) == tuple(long)
