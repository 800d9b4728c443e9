"""What every form of the report shows, in which order: scores, tracks, what is missing, what was measured, stages."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.evidence.rounds import ONE_ROUND
from orchestrator.evidence.value import Variant
from orchestrator.report.absolute import Candidates, absolute_table, candidates
from orchestrator.report.agreement import agreement_table, disagreement_table
from orchestrator.report.claims import VERDICTS, categories_table, counts_text, judged_table
from orchestrator.report.details import image_table, model_table, stage_table, variant_table
from orchestrator.report.differing import differing_tables
from orchestrator.report.fidelity import fidelity_tables
from orchestrator.report.formats import plural
from orchestrator.report.imported import imported_table
from orchestrator.report.measured import measured_tables, remarks
from orchestrator.report.model import RunReport
from orchestrator.report.table import Cell, Footnotes, Table, columns
from orchestrator.report.tracks import (
    LIKE_BEST,
    LIKE_COSTLIEST,
    LIKE_DENSE,
    TrackView,
    column_notes,
    missing_score_cell,
    score_cell,
    track_views,
)
from orchestrator.score.overall import Score
from orchestrator.store import StageStatus
from orchestrator.tracks import Place, Track

NOT_ASKED_FOR = "the manifest does not ask for this track"
READING = (
    "A score of 100 is the dense model; more is better. Track 3 has no dense value: there 100 is the costliest method "
    "of the run. Figures in brackets after a score mark it as partial: (3/9) was computed from 3 of 9 expected values."
)


@dataclass(frozen=True)
class MissingEntry:
    """Values of one track that one reason leaves out, and of which variants."""

    track: str
    what: str
    reason: str
    variants: str

    def __str__(self) -> str:
        return f"track {self.track}: {self.what}: {self.reason} ({self.variants})"


@dataclass(frozen=True)
class View:
    """The report's content in reading order. `absolute` is the table of `candidates`. `footnotes` explain the en dashes
    of `overview` and the tracks, `reading` the figures of `overview`, `columns` what its scores rest on where that is
    not all that a variant has; `warnings` say where figures of different protocols stand side by side, `remarks` what
    the workers noted, each note once. `fidelity` is how far the compressed models are from dense, `differing` has items
    that they pick otherwise. `paper` are the paper's categories and conclusions, as far as the run has them; `verdicts`
    explain the latter."""

    report: RunReport
    summary: tuple[str, ...]
    candidates: Candidates
    absolute: Table
    overview: Table
    reading: str
    columns: tuple[str, ...]
    warnings: tuple[str, ...]
    remarks: tuple[str, ...]
    tracks: tuple[TrackView, ...]
    fidelity: tuple[Table, ...]
    differing: tuple[Table, ...]
    paper: tuple[Table, ...]
    verdicts: str
    footnotes: tuple[tuple[int, str], ...]
    missing: tuple[MissingEntry, ...]
    details: tuple[Table, ...]


def view(report: RunReport) -> View:
    footnotes = Footnotes()
    overview = _overview(report, footnotes)
    tracks = track_views(report, footnotes)
    found = candidates((report,))
    absolute = absolute_table(found, footnotes)
    claims = judged_table(report.claims, footnotes)
    paper = (categories_table(report.categories, footnotes), claims)
    fidelity = fidelity_tables(report.scoring.fidelity, footnotes)
    measured = measured_tables(report.scoring.measured, footnotes)
    details = (
        imported_table(report.scoring.imported),
        *measured,
        agreement_table(report.agreement, footnotes),
        disagreement_table(report.agreement),
        model_table(report),
        variant_table(report),
        stage_table(report),
        image_table(report),
    )
    return View(
        report=report,
        summary=_summary(report),
        candidates=found,
        absolute=absolute,
        overview=overview,
        reading=" ".join(filter(None, (READING, _how_sure(report), _measured_once(report)))),
        columns=column_notes(report.scores),
        warnings=report.scoring.warnings,
        remarks=remarks(report.scoring.measured),
        tracks=tracks,
        fidelity=fidelity,
        differing=differing_tables(report.differing),
        paper=tuple(table for table in paper if table.rows),
        verdicts=f"{counts_text(report.claims)}. {VERDICTS}" if report.claims is not None and claims.rows else "",
        footnotes=footnotes.entries,
        missing=missing_entries(report.scores),
        details=tuple(table for table in details if table.rows),
    )


def _how_sure(report: RunReport) -> str:
    """What the brackets and marks of the overall metrics mean; empty where there are none."""
    scoring = report.scoring
    if scoring.resampling is None or not any(value.interval for value in scoring.values):
        return ""
    text = (
        f"Square brackets hold {scoring.resampling.confidence_percent} % intervals, from "
        f"{scoring.resampling.resamples} resamples of the items, or draws of the rounds' spread; a score whose "
        "interval holds 100 cannot be told apart from dense."
    )
    like = {score.track.is_relative for score in scoring.scores if score.like_dense}
    if False in like:
        text += f" {LIKE_DENSE} marks those within what dense shows against itself."
    if True in like:
        text += f" {LIKE_COSTLIEST} marks those within what equally costly methods would show by chance."
    if any(scoring.like_best(score.variant, score.track) for score in scoring.scores):
        text += f" {LIKE_BEST}marks scores that cannot be told apart from the track's best compressed variant."
    return text


def _measured_once(report: RunReport) -> str:
    """Of which metrics nothing shows what chance does, and what would."""
    scores = (one for one in report.scores if one.value is not None and not one.variant.is_dense)
    names = tuple(dict.fromkeys(one.track.metric for one in scores if one.interval_reason == ONE_ROUND))
    if not names:
        return ""
    was = "was" if len(names) == 1 else "were"
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    return (
        f"{listed} {was} measured in one round: without an interval, and without a "
        "sign of what is chance; `rounds` in the manifest asks for more."
    )


def _summary(report: RunReport) -> tuple[str, ...]:
    compressed = sum(not variant.is_dense for variant in report.scored_variants)
    statuses = Counter(stage.status for stage in report.stages)
    cached = statuses[StageStatus.CACHED]
    stages = f"{statuses[StageStatus.DONE] + cached} of {plural(len(report.stages), 'stage')} done"
    if cached:
        stages += f" ({cached} cached)"
    others = [one for one in StageStatus if one not in (StageStatus.DONE, StageStatus.CACHED) and statuses[one]]
    stages += "".join(f", {statuses[status]} {status.value}" for status in others)
    scored = [score for score in report.scores if score.value is not None]
    partial = sum(score.is_partial for score in scored)
    without = sum(score.value is None and score.variant.is_scored_in(score.track) for score in report.scores)
    return (
        f"{plural(compressed, 'compressed variant')} of {plural(len(report.models), 'model')} "
        f"on {report.device} ({report.runtime} runtime).",
        f"{stages}.",
        f"{plural(len(scored), 'score')}, {partial} of them partial; {without} could not be computed.",
    )


def _overview(report: RunReport, footnotes: Footnotes) -> Table:
    rows = []
    for variant in report.scored_variants:
        scores = (_score_cell(report, report.scoring.score(variant, track), footnotes) for track in Track)
        rows.append((Cell(variant.method or "dense"), Cell(variant.setting or ""), *scores))
    return Table(
        title="Overall metrics",
        columns=columns("Method", "Setting", numbers=tuple(f"{track.value} {track.metric}" for track in Track)),
        rows=tuple(rows),
        headings=2,
    )


def _score_cell(report: RunReport, score: Score | None, footnotes: Footnotes) -> Cell:
    if score is None:
        return footnotes.missing(NOT_ASKED_FOR)
    if score.value is None:
        return missing_score_cell(score, footnotes)
    partial = f" ({len(score.counted)}/{score.coverage.values_expected})" if score.is_partial else ""
    return score_cell(report, score, score.value, footnotes, partial)


def missing_entries(scores: Iterable[Score]) -> tuple[MissingEntry, ...]:
    """Variants that miss the same values for the same reason are told together."""
    by_variant: dict[tuple[Track, str, Variant], list[Place]] = {}
    for score in scores:
        if score.variant.is_scored_in(score.track):
            for value in score.coverage.missing:
                by_variant.setdefault((score.track, value.reason, score.variant), []).append(value.place)
    together: dict[tuple[Track, str, str], list[str]] = {}
    for (track, reason, variant), places in by_variant.items():
        together.setdefault((track, _places(places), reason), []).append(variant.label)
    return tuple(
        MissingEntry(f"{track.value} {track.title}", what, reason, ", ".join(labels))
        for (track, what, reason), labels in sorted(together.items(), key=lambda item: item[0][0])
    )


def _places(places: list[Place]) -> str:
    """For instance `mmlu, piqa of llama2-7b; mmlu of llama3-8b`, or in track 5 `vllm batch 1 of llama2-7b`."""
    by_model: dict[str, list[str]] = {}
    for place in places:
        by_model.setdefault(place.model, []).append(place.label)
    return "; ".join(f"{', '.join(names)} of {model}" for model, names in by_model.items())
