"""The candidates of one model of a run: every variant through every backend that was asked for."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.contract import unknown
from orchestrator.decide.accuracy import Losses, losses
from orchestrator.decide.candidates import Amount, Candidate
from orchestrator.errors import BadManifest
from orchestrator.evidence.draws import Draws
from orchestrator.evidence.items import NoInterval
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.rounds import Rounds
from orchestrator.evidence.served_memory import MEMORY_PART
from orchestrator.evidence.value import NOT_MEASURED, Value, Values, Variant
from orchestrator.manifest.deciding import DecideEntry, Quantity
from orchestrator.tracks import Expectation, Place, Track

MEMORY_NAME = "peak_memory_bytes"


@dataclass(frozen=True)
class Choices:
    """`batch` is the number of prompts at once that speeds are of; None where nothing was timed."""

    candidates: tuple[Candidate, ...]
    losses: Losses
    batch: int | None


def models_of(evidence: Evidence) -> tuple[str, ...]:
    return next(one.models for one in evidence.expectations if one.track is Track.INFERENCE_CONSUMPTION)


def collect(evidence: Evidence, draws: Draws, model: str, asked: DecideEntry) -> Choices:
    """Raises BadManifest: the run has no such backend or batch size."""
    timed = next(one for one in evidence.expectations if one.track is Track.HARDWARE_ACCELERATION)
    backends = _chosen_backends(timed, asked.backend)
    batch = _chosen_batch(timed, asked.batch)
    found = losses(evidence, draws, model)
    source = _Source(evidence, draws, Rounds(evidence.memories, draws.resampling.resamples, draws.resampling.seed))
    candidates = [
        _candidate(source, found, model, variant, backend, batch)
        for variant in evidence.variants
        if _is_of(evidence, model, variant)
        for backend in backends
    ]
    return Choices(tuple(candidates), found, batch)


def _chosen_backends(timed: Expectation, wanted: str | None) -> tuple[str | None, ...]:
    if wanted is not None and wanted not in timed.parts:
        listed = ", ".join(timed.parts) or "none"
        raise BadManifest(unknown("backend of the run", wanted, timed.parts), hint=f"the run timed: {listed}")
    if wanted is not None:
        return (wanted,)
    return tuple(timed.parts) or (None,)


def _chosen_batch(timed: Expectation, wanted: int | None) -> int | None:
    """None where none was timed."""
    sizes = sorted({int(name.removeprefix("batch ")) for names in timed.parts.values() for name in names})
    if wanted is not None and wanted not in sizes:
        listed = ", ".join(map(str, sizes)) or "none"
        raise BadManifest(f"the run timed no batch of {wanted}", hint=f"the run timed: {listed}")
    return min(sizes, default=None) if wanted is None else wanted


def _is_of(evidence: Evidence, model: str, variant: Variant) -> bool:
    """False where the manifest leaves the variant out for this model."""
    return variant.is_dense or any(
        place.model == model
        for one in evidence.expectations
        for place in one.places_of(variant.method, variant.setting)
    )


@dataclass(frozen=True)
class _Source:
    evidence: Evidence
    draws: Draws
    memories: Rounds

    def value(self, place: Place, variant: Variant) -> tuple[Value, Amount] | str:
        """The amount, or why there is none."""
        return self._amount(self.evidence.values, self.draws.rounds, place, variant)

    def memory(self, place: Place, variant: Variant, timed: Place) -> tuple[Value, Amount] | str:
        """As a backend served it while it was timed; where it has none, for the reason for which it was not timed."""
        found = self._amount(self.evidence.memories, self.memories, place, variant)
        return self.evidence.values.why_none(timed, variant) if found == NOT_MEASURED else found

    def _amount(self, values: Values, rounds: Rounds, place: Place, variant: Variant) -> tuple[Value, Amount] | str:
        value = values.get(place, variant)
        if value is None:
            return values.why_none(place, variant)
        if value.withheld is not None:
            return value.withheld
        try:
            return value, Amount(value.value, rounds.estimate(value).draws, exact=value.counted)
        except NoInterval as reason:
            return value, Amount(value.value, None, str(reason))


def _candidate(
    source: _Source, found: Losses, model: str, variant: Variant, backend: str | None, batch: int | None
) -> Candidate:
    amounts: dict[Quantity, Amount] = {}
    missing: dict[Quantity, str] = {}
    remarks: dict[str, None] = {}
    if variant in found.of:
        amounts[Quantity.LOSS] = found.of[variant]
    else:
        missing[Quantity.LOSS] = found.missing[variant]
    if variant.is_dense:
        amounts[Quantity.TIME] = Amount(0.0, np.zeros(source.draws.resampling.resamples), exact=True)
    for quantity, made in _costs(source, model, variant, backend, batch):
        if isinstance(made, str):
            missing[quantity] = made
            continue
        value, amounts[quantity] = made
        if value.caveat is not None:
            remarks[f"measured as {value.caveat}: not a figure of the method's own weights"] = None
    return Candidate(variant, backend, amounts, missing, tuple(remarks))


def _costs(
    source: _Source, model: str, variant: Variant, backend: str | None, batch: int | None
) -> Iterator[tuple[Quantity, tuple[Value, Amount] | str]]:
    consumed = Track.INFERENCE_CONSUMPTION
    memory = Place(track=consumed, part=backend or MEMORY_PART, name=MEMORY_NAME, model=model)
    speed = Place(track=Track.HARDWARE_ACCELERATION, part=backend or "", name=f"batch {batch}", model=model)
    yield Quantity.MEMORY, source.value(memory, variant) if backend is None else source.memory(memory, variant, speed)
    disk = Place(track=consumed, part="size", name="disk_bytes", model=model)
    yield Quantity.DISK, source.value(disk, variant)
    if backend is None or batch is None:
        yield Quantity.SPEED, "nothing was timed in this run"
    else:
        yield Quantity.SPEED, source.value(speed, variant)
    if not variant.is_dense:
        time = Place(track=Track.TRAINING_CONSUMPTION, part="time", name="compress_seconds", model=model)
        yield Quantity.TIME, source.value(time, variant)
