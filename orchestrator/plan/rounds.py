"""Measurements in rounds: what the machine does meanwhile falls on dense and on what is held against it alike."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.stages import Stage, Turn


def in_rounds(stages: Sequence[Stage], rounds: int, seed: str) -> tuple[Stage, ...]:
    """`stages` measure the same of one model's checkpoints; here each is measured once a round, dense twice.

    Each round begins and ends with dense, so that dense against dense shows what differs by chance; the others stand
    between in an order drawn with `seed`. One comes after the other, and the first when all that they read is made.
    With one round nothing is measured twice, and nothing waits.
    """
    if rounds == 1 or not stages:
        return tuple(stages)
    planned: list[Stage] = []
    first_after = tuple(dict.fromkeys(need for stage in stages for need in stage.needs))
    for stage, turn in _turns(stages, rounds, f"{seed} {stages[0].id}"):
        after = (planned[-1].id,) if planned else first_after
        planned.append(replace(stage, id=f"{stage.id}/{turn.label}", turn=turn, after=after))
    return tuple(planned)


def first_of(stage: str, rounds: int) -> str:
    """The id of the first measurement of a stage that `in_rounds` plans: what it makes is what others read."""
    return stage if rounds == 1 else f"{stage}/{Turn().label}"


def _turns(stages: Sequence[Stage], rounds: int, seed: str) -> Iterator[tuple[Stage, Turn]]:
    once = [stage for number, stage in enumerate(stages) if stage not in stages[:number]]
    dense = [stage for stage in once if stage.subject is not None and stage.subject.method is None]
    others = [stage for stage in once if stage not in dense]
    for number in range(1, rounds + 1):
        drawn = random.Random(f"{seed} {number}").sample(others, len(others))  # noqa: S311  an order, no secret
        yield from ((stage, Turn(round=number)) for stage in (*dense, *drawn))
        yield from ((stage, Turn(round=number, again=True)) for stage in dense)
