"""Whether what follows from several results came out again: ratios to dense within a band, scores in their interval."""

from collections.abc import Iterator

from orchestrator.artifact.contents import Tolerances
from orchestrator.artifact.reproduction import Judgement, Kind, Verdict, Why
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.value import DENSE, Value
from orchestrator.score.scores import RunScores
from orchestrator.tracks import Track

_RATIOS = (Track.INFERENCE_CONSUMPTION, Track.HARDWARE_ACCELERATION)


def judge_ratios(packed: Evidence, here: Evidence, tolerances: Tolerances) -> Iterator[Judgement]:
    """Each measured cost of a compressed variant over dense's; what is counted is judged with its stage."""
    for value in packed.values:
        if value.place.track not in _RATIOS or value.variant.is_dense or value.counted:
            continue
        what = f"{value.place} by {value.variant.label}"
        dense = packed.values.get(value.place, DENSE)
        found, found_dense = (here.values.get(value.place, variant) for variant in (value.variant, DENSE))
        if dense is None:
            continue
        is_timed = value.place.track is Track.HARDWARE_ACCELERATION
        if found is None or found_dense is None:
            yield _not_run(what, Kind.RATIO, "it was not measured here beside dense", Why.PARTS)
        elif is_timed and (busy := _disturbance(value, dense, found, found_dense)):
            yield _not_run(what, Kind.RATIO, busy, Why.BUSY)
        else:
            yield _ratio(what, value.value / dense.value, found.value / found_dense.value, tolerances)


def _disturbance(*values: Value) -> str | None:
    for number, value in enumerate(values):
        for one in value.measurements:
            if one.load is not None and one.load.disturbance is not None:
                return f"{'that of the packed run' if number < 2 else 'this one'}: {one.load.disturbance}"
    return None


def _ratio(what: str, packed: float, here: float, tolerances: Tolerances) -> Judgement:
    factor = max(packed / here, here / packed) if packed > 0 and here > 0 else float("inf")
    most = tolerances.most_ratio_factor
    return Judgement(
        what=what,
        kind=Kind.RATIO,
        verdict=Verdict.PASS if factor <= most else Verdict.FAIL,
        says=f"{here:.3g} here, {packed:.3g} in the file: a factor of {factor:.3g}, {most:g} may be",
    )


def judge_scores(packed: RunScores, here: RunScores) -> Iterator[Judgement]:
    """Each score of a compressed variant that is made of items; only over the same values can two be compared."""
    for score in packed.scores:
        if score.value is None or score.variant.is_dense or score.track in _RATIOS:
            continue
        what = f"{score.metric} of {score.variant.label}"
        found = here.score(score.variant, score.track)
        if score.track is Track.TRAINING_CONSUMPTION:
            yield _not_run(what, Kind.SCORE, "times are compared with nobody's", Why.NEVER)
        elif found is None or found.value is None or found.places != score.places:
            count = len(found.places & score.places) if found is not None else 0
            yield _not_run(what, Kind.SCORE, f"{count} of its {len(score.places)} values were measured", Why.PARTS)
        elif score.interval is None:
            yield _not_run(what, Kind.SCORE, f"it has no interval to lie in: {score.interval_reason}", Why.NEVER)
        else:
            low, high = score.interval.low, score.interval.high
            says = f"{found.value:.2f} here, {score.value:.2f} [{low:.2f}, {high:.2f}] in the file"
            holds = score.interval.holds(found.value)
            yield Judgement(what=what, kind=Kind.SCORE, verdict=Verdict.PASS if holds else Verdict.FAIL, says=says)


def _not_run(what: str, kind: Kind, says: str, why: Why) -> Judgement:
    return Judgement(what=what, kind=kind, verdict=Verdict.NOT_RUN, says=says, why=why)
