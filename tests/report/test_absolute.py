"""The first table: what one chooses between, in absolute units."""

import pytest

from orchestrator.report import plots as drawing
from orchestrator.report import render_html
from orchestrator.report.absolute import absolute_table, amount_text, candidates
from orchestrator.report.choices import ACCURACY, MEMORY, TIME, shared_tasks
from orchestrator.report.radar import is_comparable
from orchestrator.report.table import Footnotes
from orchestrator.tracks import Track
from tests.report.small_reports import GPTQ, WANDA


def row(report, variant):
    return next(one for one in candidates((report,)).rows if one.variant == variant)


def with_scores(report, value):
    """Every track's compressed variants at one score."""
    scores = tuple(
        one if one.variant.is_dense else one.model_copy(update={"value": value, "reason": None})
        for one in report.scores
    )
    return report.model_copy(update={"scoring": report.scoring.model_copy(update={"scores": scores})})


def test_a_column_has_one_unit_which_its_heading_names(report):
    table = absolute_table(candidates((report,)), Footnotes())
    titles = [column.title for column in table.columns]
    assert titles == ["Variant", "Accuracy (%)", "Memory (GiB)", "Disk (GiB)", "Time to compress (min)"]
    wanda = next(cells for cells in table.rows if cells[0].text == WANDA.label)
    assert [cell.text for cell in wanda[1:]] == ["50.00", "3.000", "1.000", "4.017"]


def test_what_is_missing_says_why(report):
    footnotes = Footnotes()
    table = absolute_table(candidates((report,)), footnotes)
    cell = next(cells for cells in table.rows if cells[0].text == GPTQ.label)[-1]
    assert cell.is_missing
    assert dict(footnotes.entries)[cell.note] == "compress failed: out of memory"
    assert row(report, GPTQ).missing[TIME] == "compress failed: out of memory"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (0.00741, "0.007"), (42.28, "42.28"), (1234.5, "1234"), (75837.0, "75837"), (2e6, "2.000e+06")],
)
def test_amounts_have_four_digits_and_no_exponent_that_is_not_needed(value, text):
    assert amount_text(value) == text


def test_means_of_several_runs_are_over_what_all_of_them_have(report):
    without = tuple(one for one in report.scoring.values if one.place.name != "mmlu")
    other = report.model_copy(update={"scoring": report.scoring.model_copy(update={"run": "run-8", "values": without})})
    assert shared_tasks((report,)) == {"tiny-llama": {("mmlu", "")}}
    assert shared_tasks((report, other)) == {"tiny-llama": frozenset()}
    assert all(ACCURACY not in one.amounts for one in candidates((report, other)).rows)
    assert all(MEMORY in one.amounts for one in candidates((report, other)).rows)


def test_the_radar_is_left_out_where_one_axis_presses_the_others_together(report):
    assert {score.track for score in report.scores if score.value is not None} >= {Track.PERFORMANCE}
    assert is_comparable(with_scores(report, 120.0))
    one_far = tuple(
        one.model_copy(update={"value": 24_000.0}) if one.track is Track.TRAINING_CONSUMPTION and one.value else one
        for one in with_scores(report, 120.0).scores
    )
    far = report.model_copy(update={"scoring": report.scoring.model_copy(update={"scores": one_far})})
    assert not is_comparable(far)
    assert "radar-title" not in render_html(far)


def test_without_the_plotting_libraries_the_page_says_what_is_missing(report, monkeypatch):
    monkeypatch.setattr("orchestrator.report.pages.plots", lambda methods: None)
    page = render_html(report)
    assert drawing.NOT_INSTALLED.replace("'", "&#39;") in page
    assert "data-scatter=" not in page
    assert 'id="candidates"' in page
