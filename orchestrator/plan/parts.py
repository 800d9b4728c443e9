"""Parts of a plan: some of its stages with all that they need, and the slices of items that are wanted of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from harness.contract import EvaluateParameters, Slice
from orchestrator.stages import Plan, Stage


def part_of(
    plan: Plan, wanted: Callable[[Stage], bool], slices: Mapping[str, Slice | None] | None = None
) -> tuple[Stage, ...]:
    """The stages of the plan that are wanted, and all that these need; evaluations by their ids with these `slices`.

    What is left waits for what was before it in the plan: for all of it that is left, too.
    """
    kept = {stage.id for stage in plan.stages if wanted(stage)}
    for stage in reversed(plan.stages):
        if stage.id in kept:
            kept.update(stage.needs)
    waits = {stage.id: stage.after for stage in plan.stages}
    return tuple(
        _sliced(replace(stage, after=_before(stage.after, kept, waits)), slices or {})
        for stage in plan.stages
        if stage.id in kept
    )


def _before(after: tuple[str, ...], kept: set[str], waits: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Where a stage is left out, what it would have waited for."""
    found: dict[str, None] = {}
    seen, ahead = set(after), list(after)
    while ahead:
        one = ahead.pop()
        if one in kept:
            found[one] = None
            continue
        ahead += [other for other in waits.get(one, ()) if other not in seen]
        seen.update(waits.get(one, ()))
    return tuple(found)


def _sliced(stage: Stage, slices: Mapping[str, Slice | None]) -> Stage:
    if not isinstance(stage.parameters, EvaluateParameters) or stage.id not in slices:
        return stage
    return replace(stage, parameters=stage.parameters.model_copy(update={"slice": slices[stage.id]}))
