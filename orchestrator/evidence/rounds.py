"""Costs that were measured in rounds: their mean, how sure it is, and what dense shows against itself.

Each measurement is one process. The model of its logarithm is: what the variant costs, plus what the round had in
common, plus what differs by chance. The round's part falls on all variants that were measured beside dense, and so
leaves their ratios; what is left over shows what differs by chance, and is pooled over these variants, which share the
machine: with three rounds one variant alone would have two degrees of freedom. A variant that was measured at another
time than dense has its own spread between rounds in place of both.

Intervals come from draws of the means' t distributions, the same numbers for all figures of one process, so that two
batch sizes move together, and for all variants of a round, so that they do.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.evidence.estimate import Estimate, ratio
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.value import DENSE, Interval, Measurement, Value, Values, Variant
from orchestrator.figures.metrics import Floats
from orchestrator.tracks import Place

COUNTED = "counted, so that it has no spread"
APART = "not measured beside dense, so that what the machine did in between is not in its ratio's interval"
_GREATEST_EXPONENT = 300.0
"""Keeps draws finite, whatever a t distribution of one degree of freedom gives."""


def joined(values: Iterable[Value]) -> list[Value]:
    """One value for all measurements of the same: their geometric mean, so that ratios are those within rounds.

    Values of one place and variant with the same turn stay apart, for `Values` to refuse.
    """
    alike: dict[tuple[Place, Variant], list[Value]] = {}
    for value in values:
        alike.setdefault((value.place, value.variant), []).append(value)
    return [one for several in alike.values() for one in _joined(several)]


def _joined(several: list[Value]) -> list[Value]:
    measurements = sorted(
        (one for value in several for one in value.measurements), key=lambda one: (one.turn.round, one.turn.again)
    )
    turns = {(one.turn.round, one.turn.again) for one in measurements}
    if len(several) == 1 or len(turns) != len(several):
        return several
    first = next(value for value in several if value.source == measurements[0].source)
    together: dict[str, object] = {
        "value": _mean([one.value for one in measurements]),
        "measurements": tuple(measurements),
        "noise_floor": None,
        "notes": tuple(dict.fromkeys(note for value in several for note in value.notes)),
    }
    return [first.model_copy(update=together)]


def _mean(values: Sequence[float]) -> float:
    """The geometric mean; of equal values these, to the last digit. Beside 0 there is but the arithmetic one."""
    if len(set(values)) == 1:
        return values[0]
    if min(values) <= 0:
        return math.fsum(values) / len(values)
    return math.exp(math.fsum(map(math.log, values)) / len(values))


ONE_ROUND = "one round: no interval"


class OneRound(NoInterval):
    """The figure was measured once."""

    def __init__(self) -> None:
        super().__init__(ONE_ROUND)


@dataclass(frozen=True)
class Floor:
    """What equals show against each other by chance: `draws` of that ratio around 1, and what was `observed`."""

    observed: float
    draws: Floats

    @property
    def interval(self) -> Interval:
        """Where 95 of 100 such ratios lie, and the observed one and its inverse with them."""
        low, high = np.quantile(self.draws, (0.025, 0.975))
        ends = (float(low), float(high), self.observed, 1 / self.observed)
        return Interval(low=min(ends), high=max(ends))

    @property
    def relative(self) -> float:
        """The interval's farther end as a relative difference, the larger value over the smaller one less 1."""
        found = self.interval
        return max(found.high, 1 / found.low) - 1


@dataclass(frozen=True)
class _Spread:
    """Of one variant at one place: the logarithm of its mean's deviation, drawn. `shared` is what its round had."""

    own: Floats
    shared: Floats
    beside_dense: bool


@dataclass
class Rounds:
    """The spread of every cost that was measured more than once. `seed` decides the draws."""

    values: Values
    resamples: int
    seed: int
    _spreads: dict[Place, dict[Variant, _Spread]] = field(default_factory=dict)

    def estimate(self, value: Value) -> Estimate:
        """The value with its draws.

        Raises:
            NoInterval: it was measured once, or too seldom.
        """
        if value.counted:
            return Estimate(value.value, np.full(self.resamples, value.value), {})
        spread = self._spread(value)
        return Estimate(value.value, value.value * _exponential(spread.own + spread.shared), {})

    def beside_dense(self, value: Value) -> bool | None:
        """Whether each of its rounds lies between dense's two measurements of it; None where it has no rounds."""
        try:
            return None if value.counted else self._spread(value).beside_dense
        except NoInterval:
            return None

    def floor(self, own: Value) -> Floor | None:
        """Of the value's ratio to dense; None where there is none to be had."""
        dense = self.values.get(own.place, DENSE)
        if dense is None:
            return None
        if own.counted:
            return Floor(1.0, np.ones(self.resamples))
        try:
            spread, reference = self._spread(own), self._spread(dense)
        except NoInterval:
            return None
        if not spread.beside_dense:
            apart = spread.own + spread.shared - reference.own - reference.shared
            return Floor(1.0, _exponential(apart))
        again = [one for one in dense.measurements if one.turn.again]
        first = [one for one in dense.measurements if not one.turn.again]
        logs = [math.fsum(math.log(one.value) for one in half) / len(half) for half in (again, first)]
        fit = _fit(self._beside(own.place))
        apart = self._chance(fit, again) - self._chance(fit, first)
        return Floor(math.exp(logs[0] - logs[1]), _exponential(apart))

    def floor_among(self, own: Value, rivals: Sequence[Value]) -> Floor | None:
        """Of the greatest of the rivals, which `own` is among, over `own`, were all of them the same.

        None where one of them has no spread.
        """
        try:
            spreads = {one.variant: self._spread(one) for one in rivals}
        except NoInterval:
            return None
        deviations = {variant: one.own + one.shared for variant, one in spreads.items()}
        greatest = np.max(list(deviations.values()), axis=0)
        return Floor(1.0, _exponential(greatest - deviations[own.variant]))

    def _spread(self, value: Value) -> _Spread:
        if len(value.measurements) < 2:
            raise OneRound
        if min(one.value for one in value.measurements) <= 0:
            raise NoInterval("a measurement is 0, so that it has no ratio to the others")
        if value.place not in self._spreads:
            self._spreads[value.place] = self._at(value.place)
        return self._spreads[value.place][value.variant]

    def _at(self, place: Place) -> dict[Variant, _Spread]:
        beside = self._beside(place)
        spreads: dict[Variant, _Spread] = {}
        if beside:
            fit = _fit(beside)
            shared = self._drawn(
                ("rounds", *_sources(fit.pool)), fit.pool, fit.rounds, len(fit.rounds) - 1, len(fit.rounds)
            )
            for variant, measurements in beside.items():
                spreads[variant] = _Spread(self._chance(fit, measurements), shared, beside_dense=True)
        alone = {variant: found for variant, found in self._repeated(place).items() if variant not in beside}
        residuals = np.concatenate([_centred(found) for found in alone.values()]) if alone else np.empty(0)
        freedom, pool = len(residuals) - len(alone), tuple(one for found in alone.values() for one in found)
        for variant, measurements in alone.items():
            own = self._drawn(_sources(measurements), pool, residuals, freedom, len(measurements))
            spreads[variant] = _Spread(own, np.zeros(self.resamples), beside_dense=False)
        return spreads

    def _repeated(self, place: Place) -> dict[Variant, tuple[Measurement, ...]]:
        """In an order that no other place of the same processes differs in."""
        found = sorted(self.values.at(place).items(), key=lambda item: item[0].label)
        return {
            variant: value.measurements
            for variant, value in found
            if len(value.measurements) > 1 and min(one.value for one in value.measurements) > 0
        }

    def _beside(self, place: Place) -> dict[Variant, tuple[Measurement, ...]]:
        """Dense and all that was measured in each round between its two measurements; nothing without these."""
        repeated = self._repeated(place)
        dense = repeated.get(DENSE, ())
        turns = {(one.turn.round, one.turn.again): one for one in dense}
        rounds = {number for number, _ in turns}
        if not dense or any((number, again) not in turns for number in rounds for again in (False, True)):
            return {}

        def is_between(one: Measurement) -> bool:
            if one.turn.round not in rounds:
                return False
            before, behind = (turns[one.turn.round, again] for again in (False, True))
            return before.ended <= one.begun and one.ended <= behind.begun

        return {
            variant: found
            for variant, found in repeated.items()
            if variant.is_dense or (all(map(is_between, found)) and {one.turn.round for one in found} == rounds)
        }

    def _chance(self, fit: "_Fit", measurements: Sequence[Measurement]) -> Floats:
        return self._drawn(_sources(measurements), fit.pool, fit.residuals, fit.freedom, len(measurements))

    def _drawn(
        self, names: Sequence[str], pool: Sequence[Measurement], residuals: Floats, freedom: int, count: int
    ) -> Floats:
        """Deviations [resamples] of a mean of `count`: a t distribution with the residuals' mean square.

        The numbers behind them depend on `names` alone, so that the figures of one process deviate together, and how
        far the mean square is off on the `pool` that it was found in. Each comes with both signs, so that the draws lie
        evenly around the figure.

        Raises:
            OneRound: nothing is left over that would show a spread.
        """
        if freedom < 1:
            raise OneRound
        half = -(-self.resamples // 2)
        weights = self._generator("weights", *names).standard_normal((half, len(residuals)))
        stretch = np.sqrt(freedom / self._generator("stretch", *_sources(pool)).chisquare(freedom, half))
        deviations = stretch * (weights @ residuals) / math.sqrt(freedom * count)
        return np.concatenate([deviations, -deviations])[: self.resamples]

    def _generator(self, *names: str) -> np.random.Generator:
        seed = np.random.SeedSequence([self.seed, *" ".join(names).encode()])
        return np.random.Generator(np.random.SFC64(seed))


@dataclass(frozen=True)
class _Fit:
    """What is left of the logarithms over variants and rounds [measurements], and what the rounds had [rounds].

    `pool` are dense's measurements, which name the fit.
    """

    pool: tuple[Measurement, ...]
    residuals: Floats
    freedom: int
    rounds: Floats


def _fit(beside: Mapping[Variant, tuple[Measurement, ...]]) -> _Fit:
    rows = [(index, one) for index, found in enumerate(beside.values()) for one in found]
    numbers = sorted({one.turn.round for _, one in rows})
    design = np.zeros((len(rows), len(beside) + len(numbers)))
    for row, (variant, one) in zip(design, rows, strict=True):
        row[variant] = row[len(beside) + numbers.index(one.turn.round)] = 1.0
    logs = np.log([one.value for _, one in rows])
    found, _, rank, _ = np.linalg.lstsq(design, logs, rcond=None)
    rounds = found[len(beside) :]
    return _Fit(beside[DENSE], logs - design @ found, len(rows) - int(rank), rounds - rounds.mean())


def _sources(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    return tuple(one.source for one in measurements)


def _centred(measurements: Sequence[Measurement]) -> Floats:
    logs = np.log([one.value for one in measurements])
    return np.asarray(logs - logs.mean())


def _exponential(deviations: Floats) -> Floats:
    return np.exp(np.clip(deviations, -_GREATEST_EXPONENT, _GREATEST_EXPONENT))


def relative(rivals: Sequence[Estimate], own: Estimate) -> Estimate:
    """The greatest of the rivals, which `own` is among, over `own`, draw by draw."""
    greatest = max(rivals, key=lambda one: one.value)
    return ratio(Estimate(greatest.value, np.max([one.draws for one in rivals], axis=0), {}), own)
