"""Which stages of a run to run again: all, or so many, drawn by a number that whoever asks may choose."""

import hashlib
from collections.abc import Collection, Mapping

from harness.contract import Operation
from orchestrator.artifact.reproduction import Sample
from orchestrator.errors import BadManifest
from orchestrator.stages import Plan, Stage

_BESIDE_DENSE = (Operation.PROFILE, Operation.BENCHMARK)
"""Of which the ratio to dense is judged."""


def drawn(plan: Plan, seconds: Mapping[str, float], sample: Sample) -> frozenset[str]:
    """Ids of the stages to run, with all that they need. `seconds` are what each took in the run that was packed.

    `stages` counts those that were drawn, and not what these need: the models, data, checkpoints, and the dense model's
    measurement beside a compressed one's. Stages whose time would exceed what is left of `within_seconds` are passed
    over for others.

    Raises:
        BadManifest: none of the run's stages is planned here, or nothing fits into the time.
    """
    by_id = {stage.id: stage for stage in plan.stages}
    candidates = [by_id[name] for name in seconds if name in by_id and by_id[name].operation is not Operation.FETCH]
    if not candidates:
        raise BadManifest("none of the run's stages is planned here", hint="see `orchestrator plan` of its manifest")
    wanted: set[str] = set()
    count = 0
    for stage in sorted(candidates, key=lambda one: hashlib.sha256(f"{sample.seed} {one.id}".encode()).digest()):
        if sample.stages is not None and count >= sample.stages:
            break
        more = wanted | _closure(by_id, [stage.id, *_dense_beside(plan, stage)])
        if sample.within_seconds is None or _cost(more, seconds) <= sample.within_seconds:
            count += 1
            wanted = more
    if not wanted:
        least = min(_cost(_closure(by_id, [one.id, *_dense_beside(plan, one)]), seconds) for one in candidates)
        raise BadManifest(
            f"nothing of the run fits into {sample.within_seconds:.0f} s: it took {least:.0f} s at least there",
            hint="give it more time with --within",
        )
    return frozenset(wanted)


def _cost(stages: Collection[str], seconds: Mapping[str, float]) -> float:
    return sum(seconds.get(name, 0.0) for name in stages)


def _closure(by_id: Mapping[str, Stage], names: Collection[str]) -> set[str]:
    found: set[str] = set()
    ahead = [*names]
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += by_id[name].needs
    return found


def _dense_beside(plan: Plan, stage: Stage) -> list[str]:
    """The same measurement of the dense model."""
    subject = stage.subject
    if stage.operation not in _BESIDE_DENSE or subject is None or subject.method is None:
        return []
    return [
        one.id
        for one in plan.stages
        if one.subject is not None
        and (one.subject.model, one.subject.method) == (subject.model, None)
        and (one.operation, one.parameters, one.turn) == (stage.operation, stage.parameters, stage.turn)
    ]
