"""What went into a score, of what the complete one has: data sets, models, values; and why the rest is missing."""

from collections.abc import Sequence

from harness.contract import Frozen
from orchestrator.evidence.value import Values, Variant
from orchestrator.score.ratio import Ratio, rivals
from orchestrator.tracks import Expectation, Place, Track


class MissingValue(Frozen):
    """A place of the complete score that holds no ratio."""

    place: Place
    reason: str


class Coverage(Frozen):
    """What went into a score. `names` and `models` are those with at least one ratio, of the expected ones.

    `choices` says, in a clause each, what the manifest chose to count.
    """

    noun: str
    names: tuple[str, ...]
    names_expected: tuple[str, ...]
    models: tuple[str, ...]
    models_expected: tuple[str, ...]
    values: int
    values_expected: int
    missing: tuple[MissingValue, ...] = ()
    choices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        return self.values_expected > 0 and self.values == self.values_expected

    @property
    def summary(self) -> str:
        """For instance `3 of 9 data sets`, or `9 of 9 data sets, 1 of 2 models (9 of 18 values)`; then the choices."""
        text = f"{len(self.names)} of {len(self.names_expected)} {self.noun}"
        if len(self.models_expected) > 1:
            text += f", {len(self.models)} of {len(self.models_expected)} models"
            text += f" ({self.values} of {self.values_expected} values)"
        return "; ".join((text, *self.choices))


def coverage_of(
    expectation: Expectation,
    values: Values,
    variant: Variant,
    ratios: Sequence[Ratio],
    missing: Sequence[MissingValue],
) -> Coverage:
    """What went into the score of `ratios`, and what is `missing` of it."""
    track = expectation.track
    expected = expectation.places_of(variant.method, variant.setting)
    labels, asked = dict.fromkeys(place.label for place in expected), {place.model for place in expected}
    counted = {ratio.place.label for ratio in ratios}
    models = {ratio.place.model for ratio in ratios}
    return Coverage(
        noun=track.noun,
        names=tuple(name for name in labels if name in counted),
        names_expected=tuple(labels),
        models=tuple(model for model in expectation.models if model in models),
        models_expected=tuple(model for model in expectation.models if model in asked),
        values=len(ratios),
        values_expected=len(ratios) + len(missing),
        missing=tuple(missing),
        choices=expectation.choices,
        notes=(*_relative_notes(values, track, variant, ratios), *_unexpected(values, variant, expectation)),
    )


def _relative_notes(values: Values, track: Track, variant: Variant, ratios: Sequence[Ratio]) -> tuple[str, ...]:
    if not track.is_relative:
        return ()
    by_rivals: dict[tuple[Variant, ...], list[Place]] = {}
    for ratio in ratios:
        by_rivals.setdefault(rivals(values, ratio.place, variant), []).append(ratio.place)
    notes = []
    for others, places in by_rivals.items():
        where = f" for {', '.join(map(str, places))}" if len(by_rivals) > 1 else ""
        if len(others) == 1:
            notes.append(
                f"relative to the methods in this run{where}: with {others[0].label} alone, 100 by construction"
            )
        else:
            labels = ", ".join(other.label for other in others)
            notes.append(f"relative to the methods in this run{where}: the greatest value is taken over {labels}")
    return tuple(notes)


def _unexpected(values: Values, variant: Variant, expectation: Expectation) -> tuple[str, ...]:
    expected = {*expectation.places}
    extra = sorted(
        (value.place.part, value.place.name, value.place.model)
        for value in values.of(variant)
        if value.place.track is expectation.track and value.place not in expected
    )
    return tuple(f"not counted, being no part of this score: {part}/{name} of {model}" for part, name, model in extra)
