"""Costs measured in rounds on an imagined machine, whose true ratios are known."""

from datetime import UTC, datetime, timedelta

import numpy as np

from orchestrator.evidence.value import DENSE, Measurement, Value, Values, Variant
from orchestrator.stages import Turn
from orchestrator.tracks import Place, Track

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def variants(count):
    return tuple(Variant(method=f"m{number}", setting="50%") for number in range(count))


def batch(size=1, model="tiny"):
    return Place(track=Track.HARDWARE_ACCELERATION, part="transformers", name=f"batch {size}", model=model)


def measured(place, variant, values, turns, times, name="", unit="tokens/s", higher_is_better=True):
    """One value of several measurements; each takes half a minute from its time on, in minutes."""
    measurements = tuple(
        Measurement(
            turn=turn,
            value=value,
            source=f"{name}{variant.label} {turn.label}",
            begun=BEGIN + timedelta(minutes=time),
            ended=BEGIN + timedelta(minutes=time + 0.5),
        )
        for value, turn, time in zip(values, turns, times, strict=True)
    )
    mean = float(np.exp(np.mean(np.log(values))))
    return Value(
        place=place,
        variant=variant,
        value=mean,
        unit=unit,
        higher_is_better=higher_is_better,
        protocol="p",
        measurements=measurements,
        source=measurements[0].source,
    )


def in_rounds(generator, ratios, *, rounds=3, chance=0.05, drift=0.2, burst=0.0, places=(), alike=0.0):
    """Dense first and last in each round, one variant for each of `ratios` between in any order.

    The machine's speed walks by `drift` a round, a third of it within the round. Each process is off by `chance`, of
    which the share `alike` is common to all places; with probability `burst` something takes a third of its speed.
    """
    places = places or (batch(),)
    others = variants(len(ratios))
    found = {(place, variant): ([], [], []) for place in places for variant in (DENSE, *others)}
    level = clock = 0.0
    true = dict(zip(others, ratios, strict=True)) | {DENSE: 1.0}
    for number in range(1, rounds + 1):
        level += drift * generator.standard_normal()
        order = [DENSE, *(others[index] for index in generator.permutation(len(others))), DENSE]
        slope = drift / 3 * generator.standard_normal()
        for position, variant in enumerate(order):
            turn = Turn(round=number, again=position == len(order) - 1)
            hit = np.log(2 / 3) if generator.random() < burst else 0.0
            common = generator.standard_normal()
            for place in places:
                noise = np.sqrt(alike) * common + np.sqrt(1 - alike) * generator.standard_normal()
                log = level + slope * position / (len(order) - 1) + chance * noise + hit
                values, turns, times = found[place, variant]
                values.append(100 * true[variant] * float(np.exp(log)))
                turns.append(turn)
                times.append(clock)
            clock += 1.0
    return Values(measured(place, variant, *facts) for (place, variant), facts in found.items())
