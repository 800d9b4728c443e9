"""Intervals beside the figures of all three forms of the report."""

import pytest

from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import Interval
from orchestrator.report import render_html, render_markdown, summary_text
from orchestrator.score.scores import RankStability, TrackRanks
from orchestrator.tracks import Track

WARNING = "piqa of tiny was measured by different protocols, which are not compared: dense by 'a'; wanda by 'b'"


def with_intervals(report, *, like_best=None, reason=None, warnings=()):
    """Track 1 gets intervals, the dense model's a width of 0; or all lack one for `reason`."""

    def of_items(score):
        return score.track is Track.PERFORMANCE and score.value is not None and reason is None

    def sure_score(score):
        dense = score.variant.is_dense
        own = Interval(low=score.value - 1.234, high=score.value + 2) if of_items(score) and not dense else None
        return score.model_copy(
            update={
                "interval": Interval(low=100, high=100) if of_items(score) and dense else own,
                "interval_reason": reason if score.value is not None and not of_items(score) else None,
            }
        )

    def sure_value(value):
        shown = value.place.track is Track.PERFORMANCE and reason is None
        return value.model_copy(update={"interval": Interval(low=0.4811, high=0.5222) if shown else None})

    compressed = [entry.variant for entry in report.variants]
    rows = [
        RankStability(
            variant=variant,
            rank=rank,
            first=0.5,
            keeps_rank=0.5,
            like_best=like_best if variant.method == "gptq" else None,
        )
        for rank, variant in enumerate(compressed, start=1)
    ]
    scoring = report.scoring.model_copy(
        update={
            "resampling": Resampling(),
            "values": tuple(map(sure_value, report.scoring.values)),
            "scores": tuple(map(sure_score, report.scores)),
            "ranks": (TrackRanks(track=Track.PERFORMANCE, variants=tuple(rows), kendall_tau=1),),
            "warnings": warnings,
        }
    )
    return report.model_copy(update={"scoring": scoring})


@pytest.fixture
def sure(report):
    return with_intervals(report, like_best=True, warnings=(WARNING,))


def test_markdown_has_the_interval_behind_its_score_and_its_value(sure):
    markdown = render_markdown(sure)
    assert "| wanda | 50% | 81.97 (1/9) \\[80.7, 84.0\\] own 80.62 (2/9) |" in markdown
    assert "50.00 % \\[48.1, 52.2\\]" in markdown


def test_the_page_has_the_same(sure):
    html = render_html(sure)
    assert "<small>[80.7, 84.0]</small>" in html
    assert "<small>[48.1, 52.2]</small>" in html


def test_the_terminal_has_the_interval_below_its_score(sure):
    lines = summary_text(sure).splitlines()
    above = next(number for number, line in enumerate(lines) if "| wanda" in line)
    assert "81.97" in lines[above]
    assert "[80.7, 84.0]" in lines[above + 1]
    assert "own 80.62 (2/9)" in lines[above + 2]
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("render", [render_markdown, render_html, summary_text])
def test_the_dense_score_of_100_has_no_interval(sure, render):
    assert "[100.0, 100.0]" not in render(sure).replace("\\", "")


@pytest.mark.parametrize("render", [render_markdown, render_html, summary_text])
def test_a_score_like_the_best_is_marked_and_the_mark_explained(report, sure, render):
    mark = "\N{ALMOST EQUAL TO} "
    flat = " ".join(render(sure).split())
    assert f"{mark}98.36" in flat
    assert f"{mark}marks scores that cannot be told apart from the track" in flat
    assert mark not in render(with_intervals(report, like_best=False))
    assert mark not in render(report)


@pytest.mark.parametrize("render", [render_markdown, render_html, summary_text])
def test_intervals_are_explained_where_there_are_some(report, sure, render):
    explanation = "hold 95 % intervals, from 10000 resamples of the items"
    assert explanation in " ".join(render(sure).split())
    assert explanation not in " ".join(render(report).split())


@pytest.mark.parametrize("render", [render_markdown, render_html, summary_text])
def test_a_score_without_an_interval_says_why(report, render):
    text = " ".join(render(with_intervals(report, reason="the outcomes are not in the store")).split())
    assert "wanda 50%: OM_perf without an interval: the outcomes are not in the store" in text
    assert "gptq W8A16: OM_perf without an interval: the outcomes are not in the store" in text
    assert "dense: OM_perf without" not in text, "100 by construction"


@pytest.mark.parametrize("render", [render_markdown, render_html, summary_text])
def test_figures_of_different_protocols_are_warned_of(report, sure, render):
    def seen(one):
        return "which are not compared" in " ".join(render(one).split())

    assert seen(sure)
    assert not seen(report)


def test_a_report_with_intervals_survives_json(sure):
    copy = type(sure).model_validate_json(sure.model_dump_json())
    assert render_markdown(copy) == render_markdown(sure)
