"""The page's plots as Vega-Lite specifications, made with altair, and the runtime that draws them for the reader.

The page's own script puts the data in, so that filters and limits reach the plots. Nothing is evaluated from text: the
runtime interprets expressions (`ast`), and so a page needs no `unsafe-eval`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

DATA = "rows"
"""The data set of each specification, which the page fills."""
NOT_INSTALLED = "The plots are left out: altair and vl-convert-python are not installed. `make setup` installs them."
_COLOURS = ("#3f7fb8", "#c8793a", "#4f9a6b", "#9c5f9f", "#8f7a24", "#b85454", "#6b6fc4", "#2f8f8f", "#5b6570")
"""Readable on light and on dark paper."""
_SHAPES = ("circle", "square", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left")
_INK = "currentColor"
_SCATTER_HEIGHT = 340


@dataclass(frozen=True)
class Plots:
    """`scatter` and `bars` are specifications, with `@x@` and `@y@` for the titles of axes; `runtime` is a script."""

    scatter: dict[str, Any]
    bars: dict[str, Any]
    runtime: str


@cache
def plots(methods: tuple[str, ...]) -> Plots | None:
    """None where the libraries that make them are not installed."""
    try:
        return Plots(_scatter(methods), _bars(methods), _runtime())
    except ModuleNotFoundError:
        return None


@cache
def _runtime() -> str:
    """Vega, Vega-Lite and vega-embed in one script, as vl-convert carries them."""
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script")


def _looks(methods: Sequence[str]) -> tuple[Any, Any]:
    """Colour and shape of each method; dense has the ink's own."""
    import altair as alt

    compressed = [method for method in methods if method != "dense"]
    domain = ["dense", *compressed]
    colours = [_INK, *(_COLOURS[place % len(_COLOURS)] for place, _ in enumerate(compressed))]
    shapes = ["diamond", *(_SHAPES[place % len(_SHAPES)] for place, _ in enumerate(compressed))]
    legend = alt.Legend(title=None, orient="bottom", columns=3, symbolStrokeWidth=2)
    return (
        alt.Color("method:N", scale=alt.Scale(domain=domain, range=colours), legend=legend),
        alt.Shape("method:N", scale=alt.Scale(domain=domain, range=shapes), legend=legend),
    )


def _scatter(methods: Sequence[str]) -> dict[str, Any]:
    """One point a candidate with both intervals, and the Pareto front of those that keep the limits, with names.

    The page's script puts the names, the last layer, beside the points of the one before, where there is room.

    Rows have `x`, `x_low`, `x_high`, `y`, `y_low`, `y_high`, `label`, `method`, `told`, `kept`, `front`.
    """
    import altair as alt

    colour, shape = _looks(methods)
    rows = alt.Chart(alt.NamedData(DATA))
    x = alt.X("x:Q", title="@x@", scale=alt.Scale(zero=False, nice=True))
    y = alt.Y("y:Q", title="@y@", scale=alt.Scale(zero=False, nice=True))
    faint = alt.condition("datum.kept", alt.value(0.9), alt.value(0.25))
    intervals = (
        rows.transform_filter("isValid(datum.x_low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=alt.X("x_low:Q", title="@x@"), x2="x_high:Q", y=y, color=colour, opacity=faint),
        rows.transform_filter("isValid(datum.y_low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=x, y=alt.Y("y_low:Q", title="@y@"), y2="y_high:Q", color=colour, opacity=faint),
    )
    on_front = rows.transform_filter("datum.front")
    front = on_front.mark_line(stroke=_INK, strokeDash=[5, 4], strokeWidth=1, opacity=0.7).encode(x=x, y=y, order="x:Q")
    points = rows.mark_point(filled=True, size=90, strokeWidth=2).encode(
        x=x, y=y, color=colour, shape=shape, opacity=faint, tooltip="told:N"
    )
    anchors = on_front.mark_point(size=90, opacity=0).encode(x=x, y=y)
    names = on_front.mark_text(fill=_INK, fontSize=11).encode(x=x, y=y, text="label:N")
    return _finished(
        alt.layer(*intervals, front, points, anchors, names).properties(width="container", height=_SCATTER_HEIGHT)
    )


def _bars(methods: Sequence[str]) -> dict[str, Any]:
    """A bar a variant with its interval, and a line at 100.

    Rows have `label`, `method`, `x`, `x_low`, `x_high`, `told`.
    """
    import altair as alt

    colour, _ = _looks(methods)
    rows = alt.Chart(alt.NamedData(DATA))
    y = alt.Y("label:N", sort=None, title=None, axis=alt.Axis(labelLimit=130, ticks=False, domain=False))
    bars = rows.mark_bar(height={"band": 0.7}).encode(
        x=alt.X("x:Q", title=None), y=y, color=colour.legend(None), tooltip="told:N"
    )
    intervals = rows.transform_filter("isValid(datum.x_low)").mark_rule(stroke=_INK, strokeWidth=1.5)
    dense = (
        alt.Chart(alt.InlineData([{"x": 100}])).mark_rule(stroke=_INK, strokeDash=[3, 3], opacity=0.7).encode(x="x:Q")
    )
    layers = (bars, intervals.encode(x=alt.X("x_low:Q", title=None), x2="x_high:Q", y=y), dense)
    return _finished(alt.layer(*layers).properties(width="container", height=alt.Step(17)))


def _finished(chart: Any) -> dict[str, Any]:
    """Axes in the ink of the page, which the style sheet makes light or dark."""
    configured = (
        chart.configure(background="transparent", aria=False, font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=_INK,
            titleColor=_INK,
            gridColor=_INK,
            gridOpacity=0.12,
            domainColor=_INK,
            tickColor=_INK,
            labelFontSize=11,
            titleFontSize=12,
            titleFontWeight="normal",
        )
        .configure_legend(labelColor=_INK, labelFontSize=11)
    )
    document: dict[str, Any] = configured.to_dict()
    return document
