"""The paper's bar charts of a run: what compressing costs (its Figure 2) and how fast each library decodes (Figure 3).

Geometry and texts alone; `bars.svg.j2` gives them their form, in the page and as files of their own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.evidence.value import Interval, Value, Variant
from orchestrator.report.formats import value_text
from orchestrator.report.model import RunReport
from orchestrator.tracks import Place, Track

WIDTH = 760
_LEFT = 190
_RIGHT = 150
"""What is left for the text behind the longest bar."""
_BAR, _GAP, _TITLE = 15, 9, 36
_LEGEND, _LEGEND_ROW = 32, 18
_LETTER = 7
_COLOURS = ("#3f7fb8", "#c8793a", "#4f9a6b", "#9c5f9f", "#8f7a24", "#5b6570", "#b85454", "#6b6fc4")
"""Readable on light and on dark paper."""
_LONGEST_LABEL = 28


@dataclass(frozen=True)
class Bar:
    """`low` and `high` are the ends of the interval in the plot, None where there is none."""

    y: int
    width: float
    colour: str
    text: str
    low: float | None
    high: float | None
    described: str

    @property
    def middle(self) -> float:
        return self.y + _BAR / 2

    @property
    def text_x(self) -> float:
        return max(_LEFT + self.width, self.high or 0.0) + 6


@dataclass(frozen=True)
class Row:
    """What its bars have in common, and where that is written."""

    label: str
    y: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Panel:
    title: str
    y: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Key:
    """One entry of the legend."""

    label: str
    colour: str
    x: int
    y: int


@dataclass(frozen=True)
class Chart:
    """`name` is that of its file; `title` says what the bars are."""

    name: str
    title: str
    height: int
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...]
    width: int = WIDTH
    left: int = _LEFT
    bar: int = _BAR

    @property
    def bars(self) -> int:
        return sum(len(row.bars) for panel in self.panels for row in panel.rows)


def charts(report: RunReport) -> tuple[Chart, ...]:
    """Those that the run has values of."""
    found = (_training(report), _speeds(report))
    return tuple(chart for chart in found if chart is not None)


def _training(report: RunReport) -> Chart | None:
    """Time and memory of compressing, a row a variant, a colour a model."""
    values = _values(report, Track.TRAINING_CONSUMPTION)
    titles = {"time": "Time to compress", "memory": "Peak memory of compressing"}
    return chart_of(
        "training-costs",
        "What compressing costs; less is better",
        values,
        panel=lambda place: titles.get(place.part, place.part),
        series=lambda place: place.model,
    )


def _speeds(report: RunReport) -> Chart | None:
    """Tokens a second, a panel a model and batch size, a row a variant, a colour a library."""
    return chart_of(
        "tokens-per-second",
        "Generated tokens a second; more is better",
        _values(report, Track.HARDWARE_ACCELERATION),
        panel=lambda place: f"{place.model}, {place.name}",
        series=lambda place: place.part,
    )


def _values(report: RunReport, track: Track) -> list[Value]:
    return [value for value in report.scoring.values if value.place.track is track and value.value > 0]


def chart_of(
    name: str, title: str, values: Sequence[Value], *, panel: Callable[[Place], str], series: Callable[[Place], str]
) -> Chart | None:
    """Bars of values in the order that they are given, dense first, each panel to its own scale; None of no values."""
    if not values:
        return None
    names = list(dict.fromkeys(series(value.place) for value in values))
    colours = {one: _COLOURS[number % len(_COLOURS)] for number, one in enumerate(names)}
    legend = tuple(_legend(colours))
    panels = []
    top = legend[-1].y + _GAP
    for heading in dict.fromkeys(panel(value.place) for value in values):
        within = [value for value in values if panel(value.place) == heading]
        rows = tuple(_rows(within, top + _TITLE, lambda value: (series(value.place), colours[series(value.place)])))
        panels.append(Panel(heading, top + _TITLE - 12, rows))
        top = rows[-1].bars[-1].y + _BAR + _GAP
    return Chart(name, title, top + _GAP, tuple(panels), legend)


def _rows(values: Sequence[Value], top: int, key: Callable[[Value], tuple[str, str]]) -> Iterator[Row]:
    """Variants in the order of the values, dense first."""
    longest = max(max(value.value, value.interval.high if value.interval else 0.0) for value in values)
    scale = (WIDTH - _LEFT - _RIGHT) / longest
    y = top
    for variant in sorted(dict.fromkeys(value.variant for value in values), key=lambda it: not it.is_dense):
        bars = []
        for value in (one for one in values if one.variant == variant):
            bars.append(_bar(value, y, scale, *key(value)))
            y += _BAR
        yield Row(_label(variant), (bars[0].y + y) / 2, tuple(bars))
        y += _GAP


def _bar(value: Value, y: int, scale: float, series: str, colour: str) -> Bar:
    text = value_text(value.value, value.unit)
    found: Interval | None = value.interval
    spread = ", no interval"
    if found is not None:
        spread = f", 95 % interval {value_text(found.low, value.unit)} to {value_text(found.high, value.unit)}"
    marked = f"{text} ({value.caveat})" if value.caveat else text
    return Bar(
        y=y,
        width=value.value * scale,
        colour=colour,
        text=marked if len(marked) <= _LONGEST_LABEL else f"{text} *",
        low=None if found is None else _LEFT + found.low * scale,
        high=None if found is None else _LEFT + found.high * scale,
        described=f"{value.variant.label}, {series}: {marked}{spread}",
    )


def _label(variant: Variant) -> str:
    label = variant.label
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}\N{HORIZONTAL ELLIPSIS}"


def _legend(colours: dict[str, str]) -> Iterator[Key]:
    """In as many lines as it takes."""
    x, y = _LEFT, _LEGEND
    for label, colour in colours.items():
        width = 30 + _LETTER * len(label)
        if x > _LEFT and x + width > WIDTH:
            x, y = _LEFT, y + _LEGEND_ROW
        yield Key(label, colour, x, y)
        x += width
