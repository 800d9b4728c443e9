"""The overall metrics: ratios averaged within parts, parts averaged, and the coverage of both."""

import math
from collections.abc import Iterable, Sequence

from orchestrator.evidence.observation import Gap, Observation, Variant
from orchestrator.score.collection import Collection
from orchestrator.score.ratio import Incomparable
from orchestrator.score.score import Coverage, MissingValue, PartScore, Ratio, Score
from orchestrator.tracks import Expectation, Mode, Place, Track, place_label


def score(
    expectation: Expectation,
    variant: Variant,
    observations: Iterable[Observation],
    *,
    gaps: Sequence[Gap] = (),
    mode: Mode = Mode.PAPER,
) -> Score:
    """The overall metric of one variant in one track, over what there is of `expectation`.

    Raises:
        BadObservation: the observations contradict each other.
    """
    return _score(expectation, variant, Collection(observations, gaps), mode)


def score_all(
    expectations: Iterable[Expectation],
    observations: Iterable[Observation],
    *,
    variants: Sequence[Variant] = (),
    gaps: Sequence[Gap] = (),
    mode: Mode = Mode.PAPER,
) -> tuple[Score, ...]:
    """Every variant's score in every track, variant by variant; by default of all variants that occur, dense first.

    Raises:
        BadObservation: the observations contradict each other.
    """
    collection = Collection(observations, gaps)
    tracks = tuple(expectations)
    chosen = tuple(variants) or collection.variants
    return tuple(_score(expectation, variant, collection, mode) for variant in chosen for expectation in tracks)


def _score(expectation: Expectation, variant: Variant, collection: Collection, mode: Mode) -> Score:
    track = expectation.track
    ratios: list[Ratio] = []
    missing: list[MissingValue] = []
    for place in expectation.places:
        try:
            ratios.append(collection.ratio(track, place, variant, mode))
        except Incomparable as reason:
            missing.append(MissingValue(part=place.part, name=place.name, model=place.model, reason=str(reason)))
    parts = _parts(expectation, collection, ratios, mode)
    squares = [part.value**2 for part in parts if part.value is not None]
    return Score(
        track=track,
        variant=variant,
        mode=mode,
        value=math.sqrt(_mean(squares)) if squares else None,
        reason=None if squares else _why_none(missing),
        parts=parts,
        coverage=_coverage(expectation, collection, variant, ratios, missing),
        ratios=tuple(ratios),
    )


def _parts(
    expectation: Expectation, collection: Collection, ratios: Sequence[Ratio], mode: Mode
) -> tuple[PartScore, ...]:
    groups = [collection.group(expectation.track, place, mode) for place in expectation.places]
    parts = []
    for group in dict.fromkeys(groups):
        squares = [ratio.ratio**2 for ratio in ratios if ratio.group == group]
        value = 100 * math.sqrt(_mean(squares)) if squares else None
        parts.append(PartScore(name=group, value=value, values=len(squares), values_expected=groups.count(group)))
    return tuple(parts)


def _mean(values: Sequence[float]) -> float:
    """Summed exactly, so that the order of the observations cannot show in the last digit."""
    return math.fsum(values) / len(values)


def _why_none(missing: Sequence[MissingValue]) -> str:
    reasons = dict.fromkeys(value.reason for value in missing)
    return "; ".join(reasons) or "nothing was asked for in this track"


def _coverage(
    expectation: Expectation,
    collection: Collection,
    variant: Variant,
    ratios: Sequence[Ratio],
    missing: Sequence[MissingValue],
) -> Coverage:
    track = expectation.track
    names = (place_label(track, part, name) for part, names in expectation.parts.items() for name in names)
    counted = {place_label(track, ratio.part, ratio.name) for ratio in ratios}
    expected = tuple(names)
    models = {ratio.model for ratio in ratios}
    return Coverage(
        noun=track.noun,
        names=tuple(name for name in expected if name in counted),
        names_expected=expected,
        models=tuple(model for model in expectation.models if model in models),
        models_expected=expectation.models,
        values=len(ratios),
        values_expected=len(expectation.places),
        missing=tuple(missing),
        choices=expectation.choices,
        notes=(*_relative_notes(collection, track, variant, ratios), *_unexpected(expectation, collection, variant)),
    )


def _relative_notes(collection: Collection, track: Track, variant: Variant, ratios: Sequence[Ratio]) -> tuple[str, ...]:
    if not track.is_relative:
        return ()
    by_rivals: dict[tuple[Variant, ...], list[str]] = {}
    for ratio in ratios:
        place = Place(ratio.part, ratio.name, ratio.model)
        by_rivals.setdefault(collection.rivals(track, place, variant), []).append(f"{ratio.name} of {ratio.model}")
    notes = []
    for rivals, places in by_rivals.items():
        where = f" for {', '.join(places)}" if len(by_rivals) > 1 else ""
        if len(rivals) == 1:
            notes.append(
                f"relative to the methods in this run{where}: with {rivals[0].label} alone, 100 by construction"
            )
        else:
            labels = ", ".join(rival.label for rival in rivals)
            notes.append(f"relative to the methods in this run{where}: the greatest value is taken over {labels}")
    return tuple(notes)


def _unexpected(expectation: Expectation, collection: Collection, variant: Variant) -> tuple[str, ...]:
    expected = set(expectation.places)
    extra = sorted(place for place in collection.places(expectation.track, variant) if place not in expected)
    return tuple(
        f"not counted, being no part of this score: {place.part}/{place.name} of {place.model}" for place in extra
    )
