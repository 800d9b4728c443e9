"""The paper's bar charts of a run: what compressing costs, and tokens a second by library; in the page and as files."""

import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from orchestrator.evidence.value import DENSE, Interval
from orchestrator.report import RunReport, render_html
from orchestrator.report.bars import WIDTH, Bar, Chart, charts
from orchestrator.report.files import write_reports
from orchestrator.report.pages import render_svg

from .small_reports import GPTQ, HOSTILE, WANDA, make_report, observe

SVG = "{http://www.w3.org/2000/svg}"


def with_speeds(report: RunReport, model: str = "tiny-llama") -> RunReport:
    speeds = [
        observe(5, library, f"batch {size}", variant, speed * size * times, model, unit="tokens/s")
        for size in (1, 8)
        for library, times in (("vllm", 1.0), ("mlc-llm", 1.25))
        for variant, speed in ((WANDA, 86.0), (DENSE, 85.0), (GPTQ, 170.0))
    ]
    found = Interval(low=160.0, high=200.0)
    speeds[2] = speeds[2].model_copy(update={"interval": found})
    scoring = report.scoring.model_copy(update={"values": (*report.scoring.values, *speeds)})
    return report.model_copy(update={"scoring": scoring})


@pytest.fixture
def speeds() -> Chart:
    return next(chart for chart in charts(with_speeds(make_report())) if chart.name == "tokens-per-second")


def bars_of(chart: Chart, panel: int, row: int) -> tuple[Bar, ...]:
    return chart.panels[panel].rows[row].bars


def test_a_panel_a_model_and_batch_a_row_a_variant_a_colour_a_library(speeds: Chart) -> None:
    assert [panel.title for panel in speeds.panels] == ["tiny-llama, batch 1", "tiny-llama, batch 8"]
    assert [row.label for row in speeds.panels[0].rows] == ["dense", "wanda 50%", "gptq W8A16"]
    colours = {key.label: key.colour for key in speeds.legend}
    assert [bar.colour for bar in bars_of(speeds, 0, 0)] == [colours["vllm"], colours["mlc-llm"]]


def test_bars_are_as_long_as_their_values_and_hold_their_intervals(speeds: Chart) -> None:
    dense, gptq = bars_of(speeds, 0, 0)[0], bars_of(speeds, 0, 2)[0]
    assert gptq.width / dense.width == pytest.approx(170 / 85)
    assert gptq.low is not None and gptq.high is not None
    start = speeds.left
    assert (gptq.low - start) / gptq.width == pytest.approx(160 / 170)
    assert (gptq.high - start) / gptq.width == pytest.approx(200 / 170)
    assert (dense.low, dense.high) == (None, None)
    assert gptq.described == "gptq W8A16, vllm: 170 tokens/s, 95 % interval 160 tokens/s to 200 tokens/s"
    assert dense.described == "dense, vllm: 85 tokens/s, no interval"


def test_what_compressing_costs_has_a_panel_for_time_and_one_for_memory() -> None:
    (costs,) = charts(make_report())
    assert [panel.title for panel in costs.panels] == ["Time to compress", "Peak memory of compressing"]
    assert [bar.text for panel in costs.panels for row in panel.rows for bar in row.bars] == ["4.0 min", "16.00 GiB"]


def test_a_run_that_measured_neither_has_no_chart() -> None:
    report = make_report()
    scoring = report.scoring.model_copy(update={"values": ()})
    assert charts(report.model_copy(update={"scoring": scoring})) == ()


def test_nothing_overlaps_and_nothing_leaves_the_plot() -> None:
    """Eighteen models, as the paper has them, with long names."""
    report = make_report()
    times = [
        observe(3, "time", "compress_seconds", variant, 100.0 + n, f"quite-a-long-name-{n}", unit="seconds")
        for variant in (WANDA, GPTQ)
        for n in range(18)
    ]
    scoring = report.scoring.model_copy(update={"values": tuple(times)})
    (chart,) = charts(report.model_copy(update={"scoring": scoring}))
    tops = [bar.y for panel in chart.panels for row in panel.rows for bar in row.bars]
    assert all(after - before >= chart.bar for before, after in itertools.pairwise(tops))
    assert max(key.x + 30 + 6 * len(key.label) for key in chart.legend) <= WIDTH
    assert max(key.y for key in chart.legend) + 10 < chart.panels[0].y
    assert tops[-1] + chart.bar < chart.height


def test_a_chart_is_an_svg_document_that_says_no_more_than_its_text() -> None:
    for chart in charts(with_speeds(make_report(model=HOSTILE), HOSTILE)):
        root = ElementTree.fromstring(render_svg(chart))  # noqa: S314  our own text
        assert root.tag == f"{SVG}svg"
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
            "svg",
            "title",
            "rect",
            "text",
            "g",
            "path",
        }
        assert any(HOSTILE in (element.text or "") for element in root.iter(f"{SVG}text"))


def test_charts_lie_beside_the_report_and_in_its_page(tmp_path: Path) -> None:
    report = with_speeds(make_report())
    written = write_reports(report, tmp_path)
    names = {path.name for path in written}
    assert {"report.html", "figure-training-costs.svg", "figure-tokens-per-second.svg"} <= names
    page = render_html(report)
    for chart in charts(report):
        assert (tmp_path / f"figure-{chart.name}.svg").read_text("utf-8") == render_svg(chart)
        assert page.count(f'id="figure-{chart.name}"') == 1
        for bar in (bar for panel in chart.panels for row in panel.rows for bar in row.bars):
            assert f"<title>{bar.described}</title>" in page
