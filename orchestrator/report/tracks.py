"""Each track's two tables: the scores by part, laid out like the paper's, and the measured values behind them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.evidence.value import DENSE, Interval, Value, Values, Variant
from orchestrator.report.formats import interval_text, plural, score_text, value_text
from orchestrator.report.model import RunReport
from orchestrator.report.table import Cell, Footnotes, Table, columns
from orchestrator.score.overall import NOTHING_IN_COMMON, Score
from orchestrator.score.scores import RunScores
from orchestrator.tracks import Place, Track, place_label

LIKE_BEST = "\N{ALMOST EQUAL TO} "
"""Stands before a score that cannot be told apart from the best, and before `dense` where a figure cannot from that."""
LIKE_DENSE = f"{LIKE_BEST}dense"
NOISE_UNKNOWN = "(noise not known)"
LIKE_COSTLIEST = f"{LIKE_BEST}the costliest"
_MOST_NAMES = 12


@dataclass(frozen=True)
class TrackView:
    """`notes` are the remarks on the scores' coverage, each once."""

    track: Track
    scores: Table
    values: Table
    notes: tuple[str, ...]


def track_views(report: RunReport, footnotes: Footnotes) -> tuple[TrackView, ...]:
    """The tracks that the run has scores of, in their order."""
    values = Values(report.scoring.values)
    return tuple(_track(report, track, values, footnotes) for track in report.tracks)


def _track(report: RunReport, track: Track, values: Values, footnotes: Footnotes) -> TrackView:
    scores = tuple(score for score in report.scores if score.track is track)
    notes = dict.fromkeys(f"{score.variant.label}: {note}" for score in scores for note in score.coverage.notes)
    return TrackView(
        track=track,
        scores=_score_table(report, track, scores, footnotes),
        values=_value_table(values, track, scores, footnotes),
        notes=(*notes, *(note for score in scores if (note := _no_interval(score)) is not None)),
    )


def _score_table(report: RunReport, track: Track, scores: tuple[Score, ...], footnotes: Footnotes) -> Table:
    names = tuple(dict.fromkeys(part.name for score in scores for part in score.parts))
    rows = [
        (
            *_variant_cells(score.variant),
            *(_part_cell(score, name, footnotes) for name in names),
            missing_score_cell(score, footnotes)
            if score.value is None
            else score_cell(report, score, score.value, footnotes),
            Cell(coverage_text(score)),
        )
        for score in scores
    ]
    return Table(
        title=f"Track {track.value}: {track.title}, scores",
        columns=(*columns("Method", "Setting", numbers=(*names, track.metric)), *columns("Computed from")),
        rows=tuple(rows),
        headings=2,
    )


def coverage_text(score: Score) -> str:
    """What the score was computed from, and what its variant's own one was."""
    if score.own is not None:
        common = f"the {plural(len(score.counted), 'value')} that all have" if score.counted else "nothing"
        return f"{common}; own: {score.coverage.summary}"
    return f"partial: {score.coverage.summary}" if score.is_partial else score.coverage.summary


def column_notes(scores: Iterable[Score]) -> tuple[str, ...]:
    """One sentence for each track whose compressed variants were not measured alike."""
    columns: dict[Track, list[Score]] = {}
    for score in scores:
        columns.setdefault(score.track, []).append(score)
    return tuple(_column_note(track, column) for track, column in columns.items() if any(one.own for one in column))


def _column_note(track: Track, column: Iterable[Score]) -> str:
    places = next(one.counted for one in column if one.own is not None)
    own = "stands beside it as its own, which is compared with no other"
    if not places:
        return f"{track.metric}: {NOTHING_IN_COMMON}; what a variant scores over all of its values {own}."
    names = f" ({', '.join(str(term.place) for term in places)})" if len(places) <= _MOST_NAMES else ""
    return (
        f"{track.metric} is computed over the {plural(len(places), 'value')} that all compressed variants with a score "
        f"have{names}; what a variant scores over all of its values {own}."
    )


def _part_cell(score: Score, name: str, footnotes: Footnotes) -> Cell:
    value = next((part.value for part in score.parts if part.name == name), None)
    own = next((part.value for part in score.own.parts if part.name == name), None) if score.own else None
    beside = None if own is None or own == value else f"own {score_text(own)}"
    if value is not None:
        return Cell(score_text(value), beside=beside)
    if own is not None:
        return replace(footnotes.missing("no value of this part is common to all that have a score"), beside=beside)
    missing = (missing.reason for missing in score.coverage.missing if missing.place.part == name)
    return footnotes.missing("; ".join(dict.fromkeys(missing)) or score.reason or "no value of this part")


def _value_table(values: Values, track: Track, scores: tuple[Score, ...], footnotes: Footnotes) -> Table:
    expected = [missing.place for score in scores for missing in score.coverage.missing]
    counted = [ratio.place for score in scores for ratio in score.ratios]
    extra = [value.place for value in values if value.place.track is track]
    names = tuple(dict.fromkeys((place.part, place.name) for place in (*counted, *expected, *extra)))
    rows = []
    for score in scores:
        if not score.variant.is_scored_in(track):
            continue
        not_counted = {missing.place: missing.reason for missing in score.coverage.missing}
        for model in score.coverage.models_expected:
            places = (Place(track=track, part=part, name=name, model=model) for part, name in names)
            cells = (_value_cell(values, place, score.variant, not_counted, footnotes) for place in places)
            rows.append((*_variant_cells(score.variant), Cell(model), *cells))
    labels = tuple(place_label(track, part, name) for part, name in names)
    return Table(
        title=f"Track {track.value}: {track.title}, measured values",
        columns=columns("Method", "Setting", "Model", numbers=labels),
        rows=tuple(rows),
        headings=3,
    )


def _value_cell(
    values: Values, place: Place, variant: Variant, not_counted: Mapping[Place, str], footnotes: Footnotes
) -> Cell:
    value, reason = values.get(place, variant), not_counted.get(place)
    if value is None:
        return footnotes.missing(reason or "not measured, and no part of the score")
    text = value_text(value.value, value.unit)
    why = reason or value.lost
    return Cell(
        f"{text} ({value.caveat})" if value.caveat else text,
        note=None if why is None else footnotes.number(why),
        interval=" ".join(filter(None, (_value_interval(value), noise_text(values, value)))) or None,
        beside=survivors_text(value),
    )


def survivors_text(value: Value) -> str | None:
    """Of how many items the figure is, and what it is over those that dense has as well; None where none is lost."""
    own = None if value.lost is None else f"{value.items} of {sum(value.excluded.values(), value.items or 0)} items"
    over_common = (
        None
        if value.paired is None
        else f"{value_text(value.paired.value, value.unit)} over the {value.paired.items} that dense has, too"
    )
    told = [text for text in (own, over_common) if text is not None]
    return f"({'; '.join(told)})" if told else None


def _value_interval(value: Value) -> str | None:
    return None if value.interval is None else interval_text(value.interval, value.unit)


def noise_text(values: Values, value: Value) -> str | None:
    """The mark of a cost whose ratio to the dense one lies within the larger of both noise floors, or of which nothing
    shows what chance does; else None.

    A counted value has no floor, and one that is made of items none of this kind.
    """
    dense = values.get(value.place, DENSE)
    if dense is None or value.variant.is_dense or dense.protocol != value.protocol:
        return None
    if value.counted or value.items is not None or min(dense.value, value.value) <= 0:
        return None
    floors = [one.noise_floor for one in (dense, value) if one.noise_floor is not None]
    if not floors:
        return NOISE_UNKNOWN
    apart = max(dense.value, value.value) / min(dense.value, value.value) - 1
    return f"({LIKE_DENSE}, noise {max(floors):.1%})" if apart <= max(floors) else None


def score_cell(report: RunReport, score: Score, value: float, footnotes: Footnotes, suffix: str = "") -> Cell:
    """An overall metric. Dense is 100 by construction, so it has no interval."""
    note = score_note(report.scoring, score, footnotes)
    if score.interval is None or score.variant.is_dense:
        return Cell(score_text(value) + suffix, note, beside=own_text(score))
    mark = LIKE_BEST if report.scoring.like_best(score.variant, score.track) else ""
    interval = score_interval_text(score, score.interval)
    return Cell(mark + score_text(value) + suffix, note, interval=interval, beside=own_text(score))


def score_interval_text(score: Score, interval: Interval) -> str:
    """The interval of an overall metric, and whether it is like what has 100."""
    if not score.like_dense:
        return interval_text(interval)
    return f"{interval_text(interval)} {LIKE_COSTLIEST if score.track.is_relative else LIKE_DENSE}"


def score_note(scoring: RunScores, score: Score, footnotes: Footnotes, *others: str | None) -> int | None:
    """The footnote with what must be known of a score: what lifts it, and whether it does not beat its baseline."""
    said = scoring.against_baselines(score.variant, score.track)
    beaten = f"{score.variant.label} {'; '.join(said)}" if said else None
    known = "; ".join(filter(None, (score.remark, beaten, *others)))
    return footnotes.number(known) if known else None


def missing_score_cell(score: Score, footnotes: Footnotes) -> Cell:
    return replace(footnotes.missing(score.reason or ""), beside=own_text(score))


def own_text(score: Score) -> str | None:
    """The score over all that the variant has, where the column's rests on less: `own 82.12 (5/18)`."""
    if score.own is None:
        return None
    return f"own {score_text(score.own.value)} ({score.coverage.values}/{score.coverage.values_expected})"


def _no_interval(score: Score) -> str | None:
    """Why a score has no interval; None where it has one."""
    if score.interval_reason is None or score.variant.is_dense:
        return None
    return f"{score.variant.label}: {score.metric} without an interval: {score.interval_reason}"


def _variant_cells(variant: Variant) -> tuple[Cell, Cell]:
    return Cell(variant.method or "dense"), Cell(variant.setting or "")
