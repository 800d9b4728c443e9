"""Depth first: each checkpoint is made right before its first reader, so that few of them are there at once."""

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.stages import Stage, Subject


def depth_first(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages of one model, each after what it needs and waits for.

    First comes all that is measured once, dense and then variant by variant; then what is measured in rounds, for which
    all variants have to be there; last what nobody reads.
    """
    read = {need for stage in stages for need in stage.needs}
    subjects: dict[Subject | None, int] = {}
    for stage in stages:
        subjects.setdefault(stage.subject, len(subjects))

    def turn(stage: Stage) -> tuple[bool, bool, int]:
        in_rounds = stage.turn is not None
        return stage.makes_artifact, in_rounds, 0 if in_rounds else subjects[stage.subject]

    ends = sorted((stage for stage in stages if stage.id not in read), key=turn)
    return tuple(_with_needs(ends, {stage.id: stage for stage in stages}))


def _with_needs(wanted: Sequence[Stage], stages: Mapping[str, Stage]) -> Iterator[Stage]:
    """Each of `wanted`, right after those of `stages` that it needs or waits for and that have not come yet."""
    came: set[str] = set()
    pending = list(reversed(wanted))
    while pending:
        stage = pending[-1]
        first = [one for one in (*stage.needs, *stage.after) if one in stages and one not in came]
        if first and stage.id not in came:
            pending += (stages[one] for one in reversed(first))
            continue
        pending.pop()
        if stage.id not in came:
            came.add(stage.id)
            yield stage
