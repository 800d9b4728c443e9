"""What one chooses between, with what a run has of it: a variant, and the library that serves it where one was timed.

Where the run was decided on, rows have the figures that the decision rests on, in the order of their rank.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.contract import REFERENCE_ENGINE
from orchestrator.decide.answer import CandidateEntry
from orchestrator.evidence.stage_values import UNCOUNTED
from orchestrator.evidence.value import DENSE, NOT_COMPRESSED, Interval, Value, Values, Variant
from orchestrator.manifest.deciding import Quantity
from orchestrator.report.model import RunReport
from orchestrator.report.tracks import noise_text
from orchestrator.tracks import Place, Track

ACCURACY, LOSS, PERPLEXITY, MEMORY, DISK, TIME = "accuracy", "loss", "perplexity", "memory", "disk", "time"
DIVERGENCE = "divergence"
SPEED = "speed"
"""Begins the key of a speed, which its batch size ends."""
_NOT_CHOSEN = "the manifest does not ask for it"


@dataclass(frozen=True)
class Amount:
    """`remark` is what has to be known of the figure, `mark` what stands beside it."""

    value: float
    interval: Interval | None = None
    remark: str | None = None
    mark: str | None = None


@dataclass(frozen=True)
class Candidate:
    """`run` and `device` are where it was measured, `tasks` what its accuracy is the mean over, `missing` why there is
    no amount of a measure."""

    run: str
    device: str
    model: str
    variant: Variant
    backend: str | None
    tasks: tuple[str, ...] = ()
    recommended: bool = False
    amounts: Mapping[str, Amount] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


Tasks = Mapping[str, frozenset[tuple[str, str]]]
"""By model the tasks, with their protocols, that mean accuracies are taken over."""


def shared_tasks(reports: Sequence[RunReport]) -> Tasks:
    """What every run that has the model has of it, since means over other tasks cannot stand in one column."""
    found: dict[str, frozenset[tuple[str, str]]] = {}
    for report in reports:
        values = Values(report.scoring.values)
        for model in (one.name for one in report.models):
            own = frozenset(_named(values, place) for place in _common_tasks(report, values, model))
            found[model] = found[model] & own if model in found else own
    return found


def candidate_rows(report: RunReport, tasks: Tasks) -> tuple[Candidate, ...]:
    """Of every model; what is recommended first."""
    return tuple(sorted(_decided(_rows(report, tasks), report), key=lambda row: not row.recommended))


def _rows(report: RunReport, shared: Tasks) -> Iterator[Candidate]:
    values = Values(report.scoring.values)
    reasons = _reasons(report)
    for model in (one.name for one in report.models):
        common = _common_tasks(report, values, model)
        tasks = tuple(place for place in common if _named(values, place) in shared[model])
        for variant in report.scored_variants:
            yield from _of_variant(report, values, model, variant, tasks, reasons)


def _of_variant(
    report: RunReport,
    values: Values,
    model: str,
    variant: Variant,
    tasks: Sequence[Place],
    reasons: Mapping[tuple[str, Variant], Mapping[str, str]],
) -> Iterator[Candidate]:
    """A row for each library that was timed with it; one row where none was."""
    amounts = {key: _amount(values, value) for key, value in _costs(values, model, variant)}
    amounts |= _divergence(report, model, variant)
    accuracy = _accuracy(values, variant, tasks)
    if accuracy is not None:
        amounts[ACCURACY] = accuracy
    speeds: dict[str | None, dict[str, Amount]] = {}
    for value in values.of(variant, model):
        if value.place.track is Track.HARDWARE_ACCELERATION:
            speeds.setdefault(value.place.part, {})[f"{SPEED} {value.place.name}"] = _amount(values, value)
    missing = reasons.get((model, variant), {})
    unasked = {key: _NOT_CHOSEN for key, track in _TRACKS.items() if track not in report.tracks}
    row = Candidate(
        run=report.run_id,
        device=report.device,
        model=model,
        variant=variant,
        backend=None,
        tasks=tuple(place.name for place in tasks),
        missing={**unasked, **missing},
    )
    for backend, found in (speeds or {None: {}}).items():
        yield replace(row, backend=backend, amounts=amounts | found)


def _decided(rows: Iterable[Candidate], report: RunReport) -> Iterator[Candidate]:
    """The rows in the order of their rank, with the figures that the decision rests on: memory as the library itself
    held it, loss paired item by item."""
    left = {(row.model, row.variant, row.backend): row for row in rows}
    for answer in report.decision.answers if report.decision else ():
        for entry in answer.candidates:
            choice = entry.choice
            row = left.pop((answer.model, choice.variant, choice.backend), None)
            row = row or left.pop((answer.model, choice.variant, None), None)
            if row is None:
                continue
            kept = {key: amount for key, amount in row.amounts.items() if key not in _DECIDED}
            missing = {_DECIDED_BY[quantity]: why for quantity, why in entry.missing.items() if quantity in _DECIDED_BY}
            yield replace(
                row,
                backend=choice.backend,
                recommended=choice == answer.recommended,
                amounts=kept | dict(_decided_amounts(entry, row)),
                missing={**row.missing, **missing},
            )
    yield from left.values()


def _decided_amounts(entry: CandidateEntry, row: Candidate) -> Iterator[tuple[str, Amount]]:
    for amount in entry.amounts:
        key = _DECIDED_BY.get(amount.quantity)
        if key is None:
            continue
        before = row.amounts.get(key, Amount(amount.value))
        mark = before.mark if before.value == amount.value else None
        yield key, Amount(amount.value, amount.interval, before.remark, mark)


_DECIDED_BY = {
    Quantity.LOSS: LOSS,
    Quantity.MEMORY: MEMORY,
    Quantity.DISK: DISK,
    Quantity.TIME: TIME,
}
_DECIDED = frozenset(_DECIDED_BY.values())
_TRACKS = {
    ACCURACY: Track.PERFORMANCE,
    MEMORY: Track.INFERENCE_CONSUMPTION,
    DISK: Track.INFERENCE_CONSUMPTION,
    TIME: Track.TRAINING_CONSUMPTION,
}
_COSTS = {
    (Track.INFERENCE_CONSUMPTION, "peak_memory_bytes"): MEMORY,
    (Track.INFERENCE_CONSUMPTION, "disk_bytes"): DISK,
    (Track.TRAINING_CONSUMPTION, "compress_seconds"): TIME,
}


def _costs(values: Values, model: str, variant: Variant) -> Iterator[tuple[str, Value]]:
    """What the variant costs, and its perplexity on the first text that counts."""
    texts = []
    for value in values.of(variant, model):
        key = _COSTS.get((value.place.track, value.place.name))
        if key is not None:
            yield key, value
        elif value.unit == "perplexity" and value.place.part != UNCOUNTED:
            texts.append(value)
    if texts:
        yield PERPLEXITY, texts[0]


def _divergence(report: RunReport, model: str, variant: Variant) -> dict[str, Amount]:
    """The mean divergence from dense over the first text that has one, by the reference, in nats a token.

    Dense has none from itself.
    """
    texts = [
        one
        for one in report.scoring.fidelity.texts
        if one.model == model and one.engine == REFERENCE_ENGINE and "kl_mean" in one.figures
    ]
    if variant.is_dense:
        return {DIVERGENCE: Amount(0.0)} if texts else {}
    figure = next((one.figures["kl_mean"] for one in texts if one.variant == variant), None)
    return {} if figure is None else {DIVERGENCE: Amount(figure.value, figure.interval)}


def _amount(values: Values, value: Value) -> Amount:
    return Amount(value.value, value.interval, value.caveat or value.lost, noise_text(values, value))


def _reasons(report: RunReport) -> dict[tuple[str, Variant], dict[str, str]]:
    """Why amounts are missing, as the scores say it, by model and variant."""
    found: dict[tuple[str, Variant], dict[str, str]] = {}
    for score in report.scores:
        for one in score.coverage.missing:
            found.setdefault((one.place.model, score.variant), {}).setdefault(_key_of(one.place), one.reason)
    for model in report.models:
        found.setdefault((model.name, DENSE), {})[TIME] = NOT_COMPRESSED
    return found


def _key_of(place: Place) -> str:
    if place.track is Track.HARDWARE_ACCELERATION:
        return f"{SPEED} {place.name}"
    if place.track.is_of_costs:
        return _COSTS.get((place.track, place.name), place.name)
    return PERPLEXITY if place.track is Track.GENERALIZATION else ACCURACY


def _common_tasks(report: RunReport, values: Values, model: str) -> tuple[Place, ...]:
    """Tasks with right answers of which every variant of the model that has any has a figure by dense's protocol."""
    counted = {place for score in report.scores if score.variant.is_dense for place in score.places}
    places = [
        value.place
        for value in values.of(DENSE)
        if (value.place.track, value.place.model, value.unit) == (Track.PERFORMANCE, model, "fraction")
        and value.place in counted
    ]
    having = [{place for place in places if _is_comparable(values, place, one)} for one in report.scored_variants]
    return tuple(place for place in places if all(place in own for own in having if own))


def _named(values: Values, place: Place) -> tuple[str, str]:
    """The task, and the protocol of dense's figure."""
    return place.name, values.at(place)[DENSE].protocol


def _is_comparable(values: Values, place: Place, variant: Variant) -> bool:
    own, dense = values.get(place, variant), values.get(place, DENSE)
    return own is not None and dense is not None and own.withheld is None and own.protocol == dense.protocol


def _accuracy(values: Values, variant: Variant, tasks: Sequence[Place]) -> Amount | None:
    """The mean over the tasks, whose items are different ones, with the interval that follows from theirs.

    Source: Zou and Donner, Statistics in Medicine 27 (2008), 1693: the method of variance estimates recovery.
    """
    terms = [value for place in tasks if (value := values.get(place, variant)) is not None]
    if not terms or len(terms) < len(tasks):
        return None
    mean = math.fsum(term.value for term in terms) / len(terms)
    ends = [(term.value, term.interval) for term in terms if term.interval is not None]
    if len(ends) < len(terms):
        return Amount(mean)
    below = math.hypot(*(value - interval.low for value, interval in ends)) / len(terms)
    above = math.hypot(*(interval.high - value for value, interval in ends)) / len(terms)
    return Amount(mean, Interval(low=mean - below, high=mean + above))
