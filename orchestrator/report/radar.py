"""Geometry of the radar plot: six axes, one line a variant. A missing score is a gap in the line, never its centre."""

import math
from dataclasses import dataclass

from orchestrator.evidence.value import Variant
from orchestrator.report.model import RunReport
from orchestrator.tracks import Track

SIZE = 460
_CENTRE = SIZE / 2
_RADIUS = 150
_LABEL_RADIUS = 178
_RINGS = (0.25, 0.5, 0.75, 1.0)
_COLOURS = 8
"""How many the style sheet defines; further variants use them again with the next dash."""
_FEWEST_AXES = 3
_GREATEST_SPREAD = 1.5
"""Of the axes' ends: beyond it, the longest presses all other lines together."""
_DASHES = ("none", "7 3", "2 3", "10 3 2 3")
DENSE_SCORE = 100.0


@dataclass(frozen=True)
class Point:
    x: float
    y: float


@dataclass(frozen=True)
class Axis:
    """`outermost` is the score at the axis's end."""

    label: str
    outermost: float
    end: Point
    text_at: Point
    anchor: str


@dataclass(frozen=True)
class Line:
    """`path` is an SVG path through the scores that there are; `described` reads them out."""

    label: str
    colour: int
    dash: str
    path: str
    points: tuple[Point, ...]
    described: str


@dataclass(frozen=True)
class Radar:
    size: int
    axes: tuple[Axis, ...]
    rings: tuple[str, ...]
    lines: tuple[Line, ...]


def is_comparable(report: RunReport) -> bool:
    """Whether one figure may hold all axes: at least three have scores, each ends about where the others do, and there
    are no more lines than can be told apart."""
    ends = [_outermost(report, track) for track in report.tracks]
    scored = {score.track for score in report.scores if score.value is not None and not score.variant.is_dense}
    few = len(report.scored_variants) <= _COLOURS
    return few and len(scored) >= _FEWEST_AXES and max(ends) <= _GREATEST_SPREAD * min(ends)


def radar(report: RunReport) -> Radar:
    """Each axis ends at the run's best score on it, or at 100 where all are below."""
    outermost = {track: _outermost(report, track) for track in Track}
    return Radar(
        size=SIZE,
        axes=tuple(_axis(track, outermost[track]) for track in Track),
        rings=tuple(" ".join(_pair(_at(track, share * _RADIUS)) for track in Track) for share in _RINGS),
        lines=tuple(_line(report, variant, n, outermost) for n, variant in enumerate(report.scored_variants)),
    )


def _outermost(report: RunReport, track: Track) -> float:
    values = [score.value for score in report.scores if score.track is track and score.value is not None]
    return max([DENSE_SCORE, *values])


def _axis(track: Track, outermost: float) -> Axis:
    text_at = _at(track, _LABEL_RADIUS)
    offset = text_at.x - _CENTRE
    anchor = "middle" if abs(offset) < 1 else "start" if offset > 0 else "end"
    return Axis(track.metric, outermost, _at(track, _RADIUS), text_at, anchor)


def _line(report: RunReport, variant: Variant, index: int, outermost: dict[Track, float]) -> Line:
    values = {}
    for track in Track:
        score = report.scoring.score(variant, track)
        if score is not None and score.value is not None:
            values[track] = score.value
    points = {track: _at(track, _RADIUS * value / outermost[track]) for track, value in values.items()}
    dash = _DASHES[(index + index // _COLOURS) % len(_DASHES)]
    read_out = ", ".join(
        f"{track.metric} {values[track]:.2f}" if track in values else f"{track.metric} missing" for track in Track
    )
    return Line(variant.label, index % _COLOURS, dash, _path(points), tuple(points.values()), read_out)


def _path(points: dict[Track, Point]) -> str:
    """Strokes between neighbouring axes that both have a score."""
    strokes = []
    for track in Track:
        following = Track(track % len(Track) + 1)
        if track in points and following in points:
            strokes.append(f"M{_pair(points[track])}L{_pair(points[following])}")
    return "".join(strokes)


def _at(track: Track, radius: float) -> Point:
    """Track 1 points up; the others follow clockwise."""
    angle = 2 * math.pi * (track - 1) / len(Track)
    return Point(_CENTRE + radius * math.sin(angle), _CENTRE - radius * math.cos(angle))


def _pair(point: Point) -> str:
    return f"{point.x:.1f},{point.y:.1f}"
