"""What the page's script works on: the figures behind the cells of its tables, in the rows' order, and the plots."""

import base64
import hashlib
import math
from collections.abc import Iterable
from typing import Any

from harness.contract import Frozen
from orchestrator.decide.answer import Decision
from orchestrator.evidence.value import Interval
from orchestrator.report.absolute import Candidates
from orchestrator.report.choices import Candidate
from orchestrator.report.formats import interval_text, score_text
from orchestrator.report.plots import Plots
from orchestrator.score.overall import Score

Amount = tuple[float] | tuple[float, float, float]


class MeasureData(Frozen):
    """`at` is the limit that stands in its field at first."""

    key: str
    title: str
    higher_is_better: bool
    limit: str | None
    at: float | None = None


class CandidateData(Frozen):
    """`amounts` are in the unit of the column: the figure, and the ends of its interval."""

    label: str
    model: str
    method: str
    amounts: dict[str, Amount]


class ScoreData(Frozen):
    track: int
    label: str
    method: str
    x: float
    x_low: float | None
    x_high: float | None
    told: str


class PageData(Frozen):
    """`plots` are specifications; None where nothing can draw them."""

    measures: tuple[MeasureData, ...]
    candidates: tuple[CandidateData, ...]
    scores: tuple[ScoreData, ...] = ()
    plots: dict[str, dict[str, Any]] | None = None

    @property
    def script(self) -> str:
        """As JSON that may stand in a page's script element."""
        return self.model_dump_json(exclude_none=True).replace("<", "\\u003c")


def page_data(
    found: Candidates, scores: tuple[Score, ...], drawn: Plots | None, decision: Decision | None = None
) -> PageData:
    """`decision` has the limits that the page begins with."""
    limits = {} if decision is None else {quantity.value: limit for quantity, limit in decision.asked.limits.items()}
    return PageData(
        measures=tuple(
            MeasureData(
                key=one.key,
                title=one.heading,
                higher_is_better=one.higher_is_better,
                limit=one.limit,
                at=_short(limits[one.key] / one.scale) if one.key in limits else None,
            )
            for one in found.measures
        ),
        candidates=tuple(_candidate(row, found) for row in found.rows),
        scores=tuple(_score(score, score.value) for score in scores if score.value is not None),
        plots=None if drawn is None else {"scatter": drawn.scatter, "bars": drawn.bars},
    )


def script_digest(script: str) -> str:
    """The name of an inline script in a Content Security Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def policy(scripts: Iterable[str]) -> str:
    """The Content Security Policy of a page that runs these inline scripts, and loads nothing."""
    allowed = " ".join(f"'{script_digest(script)}'" for script in scripts)
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"


def _candidate(row: Candidate, found: Candidates) -> CandidateData:
    return CandidateData(
        label=f"{row.variant.label} ({row.backend})" if found.has_backends and row.backend else row.variant.label,
        model=row.model,
        method=row.variant.method or "dense",
        amounts={
            measure.key: _scaled(amount.value, amount.interval, measure.scale)
            for measure in found.measures
            if (amount := row.amounts.get(measure.key)) is not None and math.isfinite(amount.value)
        },
    )


def _scaled(value: float, interval: Interval | None, scale: float) -> Amount:
    figure = _short(value / scale)
    return (figure,) if interval is None else (figure, _short(interval.low / scale), _short(interval.high / scale))


def _short(value: float) -> float:
    """Six digits: more than any cell shows."""
    return float(f"{value:.6g}")


def _score(score: Score, value: float) -> ScoreData:
    interval = score.interval if not score.variant.is_dense else None
    shown = "" if interval is None else f" {interval_text(interval)}"
    return ScoreData(
        track=score.track.value,
        label=score.variant.label,
        method=score.variant.method or "dense",
        x=_short(value),
        x_low=None if interval is None else _short(interval.low),
        x_high=None if interval is None else _short(interval.high),
        told=f"{score.variant.label}\n{score.metric}: {score_text(value)}{shown}",
    )
