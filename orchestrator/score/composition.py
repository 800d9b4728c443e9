"""What lifts an overall metric of inference costs: fewer multiply-accumulates alone save nothing that is paid for."""

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence

from harness.contract import Operation
from orchestrator.evidence.measured import Number, StageFigures
from orchestrator.evidence.value import DENSE, Values, Variant
from orchestrator.score.overall import Score
from orchestrator.score.ratio import Ratio
from orchestrator.tracks import Track

LIFTS = 0.05
"""A part, or a speed, lifts where it is better than the dense model's by more than this."""
_OPERATIONS = "macs"
_SHAPE, _WITHOUT_ZEROS = "macs/shape", "macs/density"
_BITS = "artifact.quantization.weight_bits"
_DENSE_BITS = 16
_ROUNDING = 1e-3


BySubject = Mapping[tuple[Operation, Variant | None, str | None], Sequence[StageFigures]]
"""What was measured, by what was done with which variant of which model."""


def by_subject(measured: Iterable[StageFigures]) -> BySubject:
    found: dict[tuple[Operation, Variant | None, str | None], list[StageFigures]] = {}
    for stage in measured:
        found.setdefault((stage.operation, stage.variant, stage.model), []).append(stage)
    return found


def remark(score: Score, values: Values, measured: BySubject) -> str | None:
    """The sentence for a score that multiply-accumulates alone lift; None where more does, or nothing."""
    if score.track is not Track.INFERENCE_CONSUMPTION or score.variant.is_dense:
        return None
    parts: dict[str, list[Ratio]] = {}
    for term in score.ratios:
        parts.setdefault(term.place.part, []).append(term)
    operations = parts.pop(_OPERATIONS, [])
    if not any(map(_lifts, operations)) or not parts or any(_lifts(term) for terms in parts.values() for term in terms):
        return None
    models = {term.place.model for term in operations}
    speed = _speed(values, score.variant, models)
    if speed is not None and speed > 1:
        return None
    still = sorted(parts) + ["speed"] * (speed is not None)
    cause = _cause(score.variant, models, measured)
    unmeasured = "" if speed is not None else "; no speed was measured"
    return (
        f"{score.metric} of {score.variant.label} rises by multiply-accumulates of {cause} alone: {_enumerated(still)} "
        f"{'are' if len(still) > 1 else 'is'} as the dense model's, or worse{unmeasured}"
    )


def _lifts(term: Ratio) -> bool:
    return term.ratio > 1 + LIFTS


def _speed(values: Values, variant: Variant, models: Collection[str]) -> float | None:
    """The mean speed against dense, over the least that is none by chance; None where none was measured.

    Over all batch sizes and models: a single one of several is above its floor by chance often enough.
    """
    ratios, floors = [], [LIFTS]
    for own in values.of(variant):
        dense = values.get(own.place, DENSE)
        if own.place.track is not Track.HARDWARE_ACCELERATION or own.place.model not in models or dense is None:
            continue
        if dense.protocol == own.protocol and min(dense.value, own.value) > 0:
            ratios.append(own.value / dense.value)
            floors += [one.noise_floor for one in (own, dense) if one.noise_floor is not None]
    return statistics.geometric_mean(ratios) / (1 + max(floors)) if ratios else None


def _cause(variant: Variant, models: Iterable[str], measured: BySubject) -> str:
    """Zeros and smaller shapes, as the profile counts them, or fewer bits, as the checkpoint has them."""
    causes: dict[str, None] = {}
    for model in sorted(models):
        own, dense = (_macs(measured, one, model) for one in (variant, DENSE))
        if _less(own.get(_SHAPE), dense.get(_SHAPE)):
            causes["smaller shapes"] = None
        if _less(own.get(_WITHOUT_ZEROS), own.get(_SHAPE)):
            causes["zeros"] = None
        if any(bits < _DENSE_BITS for bits in _figures(measured, Operation.COMPRESS, variant, model, _BITS).values()):
            causes["fewer bits"] = None
    return _enumerated(list(causes)) or "an unknown kind"


def _macs(measured: BySubject, variant: Variant, model: str) -> dict[str, float]:
    return _figures(measured, Operation.PROFILE, variant, model, "macs")


def _figures(measured: BySubject, operation: Operation, variant: Variant, model: str, field: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for stage in measured.get((operation, variant, model), ()):
        found |= {name: one for name, one in stage.figures.get(field, {}).items() if isinstance(one, Number)}
    return found


def _less(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and one < other * (1 - _ROUNDING)


def _enumerated(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
