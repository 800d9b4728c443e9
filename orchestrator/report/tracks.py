"""Each track's two tables: the scores by part, laid out like the paper's, and the measured values behind them."""

from dataclasses import dataclass

from orchestrator.evidence.observation import Observation, Variant
from orchestrator.report.formats import score_text, value_text
from orchestrator.report.intervals import measured_interval, no_interval, score_cell
from orchestrator.report.model import RunReport
from orchestrator.report.noise import noise_text
from orchestrator.report.table import Cell, Footnotes, Table, columns
from orchestrator.score import Score
from orchestrator.tracks import Track, place_label


@dataclass(frozen=True)
class TrackView:
    """`notes` are the remarks on the scores' coverage, each once."""

    track: Track
    scores: Table
    values: Table
    notes: tuple[str, ...]


def track_views(report: RunReport, footnotes: Footnotes) -> tuple[TrackView, ...]:
    """The tracks that the run has scores of, in their order."""
    return tuple(_track(report, track, footnotes) for track in report.tracks)


def _track(report: RunReport, track: Track, footnotes: Footnotes) -> TrackView:
    scores = tuple(score for score in report.scores if score.track is track)
    notes = dict.fromkeys(f"{score.variant.label}: {note}" for score in scores for note in score.coverage.notes)
    return TrackView(
        track=track,
        scores=_score_table(report, track, scores, footnotes),
        values=_value_table(report, track, scores, footnotes),
        notes=(*notes, *(note for score in scores if (note := no_interval(report, score)) is not None)),
    )


def _score_table(report: RunReport, track: Track, scores: tuple[Score, ...], footnotes: Footnotes) -> Table:
    names = tuple(dict.fromkeys(part.name for score in scores for part in score.parts))
    rows = []
    for score in scores:
        parts = {part.name: part.value for part in score.parts}
        rows.append(
            (
                *_variant_cells(score.variant),
                *(_part_cell(score, name, parts.get(name), footnotes) for name in names),
                footnotes.missing(score.reason or "")
                if score.value is None
                else score_cell(report, score, score.value),
                Cell(_coverage_text(score)),
            )
        )
    return Table(
        title=f"Track {track.value}: {track.title}, scores",
        columns=(*columns("Method", "Setting", numbers=(*names, track.metric)), *columns("Computed from")),
        rows=tuple(rows),
        headings=2,
    )


def _coverage_text(score: Score) -> str:
    return f"partial: {score.coverage.summary}" if score.is_partial else score.coverage.summary


def _part_cell(score: Score, name: str, value: float | None, footnotes: Footnotes) -> Cell:
    if value is not None:
        return Cell(score_text(value))
    own = (missing.reason for missing in score.coverage.missing if missing.part == name)
    return footnotes.missing("; ".join(dict.fromkeys(own)) or score.reason or "no value of this part")


def _value_table(report: RunReport, track: Track, scores: tuple[Score, ...], footnotes: Footnotes) -> Table:
    values = {
        (entry.variant, entry.model, entry.part, entry.name): entry
        for entry in report.observations
        if entry.track is track
    }
    expected = [(missing.part, missing.name) for score in scores for missing in score.coverage.missing]
    counted = [(term.part, term.name) for score in scores for term in score.ratios]
    extra = [(entry.part, entry.name) for entry in values.values()]
    places = tuple(dict.fromkeys([*counted, *expected, *extra]))
    rows = []
    for score in scores:
        if track.is_relative and score.variant.is_dense:
            continue
        for model in score.coverage.models_expected:
            found = (values.get((score.variant, model, part, name)) for part, name in places)
            reasons = (_reason(score, model, part, name) for part, name in places)
            measured = (
                _value_cell(report, score, entry, why, footnotes) for entry, why in zip(found, reasons, strict=True)
            )
            rows.append((*_variant_cells(score.variant), Cell(model), *measured))
    labels = tuple(place_label(track, part, name) for part, name in places)
    return Table(
        title=f"Track {track.value}: {track.title}, measured values",
        columns=columns("Method", "Setting", "Model", numbers=labels),
        rows=tuple(rows),
        headings=3,
    )


def _reason(score: Score, model: str, part: str, name: str) -> str | None:
    """Why the place does not count in the score; None where it does."""
    place = (part, name, model)
    found = (
        missing.reason for missing in score.coverage.missing if (missing.part, missing.name, missing.model) == place
    )
    return next(found, None)


def _value_cell(
    report: RunReport, score: Score, entry: Observation | None, reason: str | None, footnotes: Footnotes
) -> Cell:
    if entry is None:
        return footnotes.missing(reason or "not measured, and no part of the score")
    text = value_text(entry.value, entry.unit)
    return Cell(
        f"{text} ({entry.caveat})" if entry.caveat else text,
        note=None if reason is None else footnotes.number(reason),
        interval=measured_interval(report, score, entry) or noise_text(report, entry),
    )


def _variant_cells(variant: Variant) -> tuple[Cell, Cell]:
    return Cell(variant.method or "dense"), Cell(variant.setting or "")
