"""Whether what a file of claims states holds of a run: for each claim a verdict, with the figures that it rests on."""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Literal

import numpy as np
from pydantic import ConfigDict

from harness.contract import Frozen
from orchestrator.evidence.estimate import Estimate, difference, ratio
from orchestrator.evidence.interval import if_any, interval_of
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import Interval, Value
from orchestrator.figures.metrics import Floats
from orchestrator.score.claims_file import Bounds, Claim, ClaimsFile, Published, SideEntry
from orchestrator.score.sides import Asked, Found, NoFigure, SideFigure, figures
from orchestrator.tracks import Mode

BY_FIGURE_ALONE = "judged by the figure alone"
_PERCENT = 100.0


class Verdict(StrEnum):
    """`holds` and `fails`: the whole interval lies within the claim's bounds, or outside of them. `cannot tell`: it
    holds a bound, or there is none. `met` and `missed` are of published values."""

    HOLDS = "HOLDS"
    FAILS = "FAILS"
    CANNOT_TELL = "CANNOT TELL"
    NOT_MEASURED = "NOT MEASURED"
    MET = "PASS"
    MISSED = "FAIL"

    @property
    def is_met(self) -> bool:
        return self in (Verdict.HOLDS, Verdict.MET)


class Finding(Frozen):
    """What came out for one claim. `figure` is what `bounds` are about: a value, a ratio, a difference or an agreement,
    as `of` says. `reason` says why nothing was measured, or what the verdict lacks."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str
    says: str
    source: str
    verdict: Verdict
    of: str
    bounds: Bounds
    figure: float | None = None
    interval: Interval | None = None
    a: SideFigure | None = None
    b: SideFigure | None = None
    reason: str | None = None


class RunClaims(Frozen):
    """What `orchestrator claims` finds out. Fields are only ever added."""

    schema_version: Literal[1] = 1
    run: str
    title: str
    mode: Mode
    resampling: Resampling | None = None
    findings: tuple[Finding, ...]

    @property
    def all_met(self) -> bool:
        return all(one.verdict.is_met for one in self.findings)

    def count(self, verdict: Verdict) -> int:
        return sum(one.verdict is verdict for one in self.findings)


def judge(claims: ClaimsFile, evidence: Evidence, mode: Mode = Mode.PAPER) -> RunClaims:
    """Every claim's verdict. Where the evidence was not resampled, figures decide by themselves."""
    return RunClaims(
        run=evidence.run,
        title=claims.title,
        mode=mode,
        resampling=evidence.draws.resampling if evidence.draws else None,
        findings=(
            *(_judged(claim, claims, evidence, mode) for claim in claims.claims),
            *(_held(published, evidence) for published in claims.published),
        ),
    )


def _judged(claim: Claim, claims: ClaimsFile, evidence: Evidence, mode: Mode) -> Finding:
    sides = [side for side in (claim.a, claim.b) if side is not None]
    try:
        found = figures([_asked(side, claims) for side in sides], evidence, mode)
        figure, estimate = _figure(claim, found)
    except NoFigure as none:
        return _finding(claim, Verdict.NOT_MEASURED, reason=str(none))
    reason = next((one.reason for one in found if one.reason is not None), None)
    interval = None
    if estimate is not None:
        interval, reason = if_any(lambda: interval_of(estimate))
    by_itself = evidence.draws is None
    return _finding(
        claim,
        _verdict(claim.bounds, figure, interval, by_itself=by_itself),
        figure=figure,
        interval=interval,
        a=found[0].document,
        b=found[1].document if len(found) > 1 else None,
        reason=BY_FIGURE_ALONE if by_itself else reason,
    )


def _asked(side: SideEntry, claims: ClaimsFile) -> Asked:
    return Asked(claims.groups[side.of], side.figure, side.take)


def _finding(claim: Claim, verdict: Verdict, **facts: object) -> Finding:
    document = {"name": claim.name, "says": claim.says, "source": claim.source, "of": _kind(claim)}
    return Finding.model_validate({**document, "bounds": claim.bounds, "verdict": verdict, **facts})


def _kind(claim: Claim) -> str:
    return next(name for name in ("value", "ratio", "difference", "agreement") if getattr(claim, name) is not None)


def _figure(claim: Claim, found: Sequence[Found]) -> tuple[float, Estimate | None]:
    """What the bounds are about, and the same resampled where every side was.

    Raises:
        NoFigure: the sides give none.
    """
    if claim.agreement is not None:
        return _agreement(*found)
    a, *others = found
    if not others:
        return a.document.value, a.estimate
    b = others[0]
    if claim.difference is not None:
        return a.document.value - b.document.value, _both(difference, a, b)
    if b.document.value == 0:
        raise NoFigure("the figure to divide by is 0")
    return a.document.value / b.document.value, _both(ratio, a, b)


def _both(of: Callable[[Estimate, Estimate], Estimate], a: Found, b: Found) -> Estimate | None:
    return None if a.estimate is None or b.estimate is None else of(a.estimate, b.estimate)


def _agreement(a: Found, b: Found) -> tuple[float, Estimate | None]:
    """Kendall's tau: agreeing less disagreeing pairs of variants, over all pairs."""
    common = [variant for variant in a.values if variant in b.values]
    if len(common) < 3:
        raise NoFigure(f"an order of {len(common)} variants says nothing: it takes 3")
    tau = float(_tau(*(np.array([[side.values[it] for it in common]]) for side in (a, b)))[0])
    if not all(it in side.estimates for it in common for side in (a, b)):
        return tau, None
    draws = _tau(*(np.column_stack([side.estimates[it].draws for it in common]) for side in (a, b)))
    return tau, Estimate(tau, draws, {})


def _tau(left: Floats, right: Floats) -> Floats:
    """Of each row of [rows, variants]; a pair that is tied in one counts as neither."""
    first, second = np.triu_indices(left.shape[1], k=1)
    signs = np.sign(left[:, first] - left[:, second]) * np.sign(right[:, first] - right[:, second])
    return np.asarray(signs.mean(axis=1))


def _verdict(bounds: Bounds, figure: float, interval: Interval | None, *, by_itself: bool) -> Verdict:
    if interval is None and not by_itself:
        return Verdict.CANNOT_TELL
    low, high = (figure, figure) if interval is None else (interval.low, interval.high)
    if bounds.low <= low and high <= bounds.high:
        return Verdict.HOLDS
    return Verdict.FAILS if high < bounds.low or low > bounds.high else Verdict.CANNOT_TELL


def _held(published: Published, evidence: Evidence) -> Finding:
    """A measured value against the printed one."""
    spread = abs(published.value) * published.tolerance_percent / _PERCENT
    bounds = Bounds(at_least=published.value - spread, at_most=published.value + spread)
    what = f"{published.variant.label} of {published.model}: {published.task} is {published.value:g}"
    facts = {"name": published.name, "says": what, "source": published.source, "of": "value", "bounds": bounds}
    value = _measured(published, evidence)
    if isinstance(value, str):
        return Finding.model_validate({**facts, "verdict": Verdict.NOT_MEASURED, "reason": value})
    figure = value.value
    met = math.isfinite(figure) and bounds.low <= figure <= bounds.high
    verdict = Verdict.MET if met else Verdict.MISSED
    return Finding.model_validate({**facts, "verdict": verdict, "figure": figure, "interval": value.interval})


def _measured(published: Published, evidence: Evidence) -> Value | str:
    """The run's value of it, or why there is none that may be compared."""
    variant = published.variant
    found = [
        value
        for value in evidence.values
        if (value.place.model, value.place.name) == (published.model, published.task) and value.variant == variant
    ]
    if not found:
        return f"the run has no {published.task} of {variant.label} of {published.model}"
    value = next((one for one in found if one.protocol == published.protocol), None)
    if value is None:
        return f"measured by protocol {found[0].protocol!r}, published by {published.protocol!r}"
    return value.withheld or value
