"""Where the plot puts scores, and how values read."""

import math

import pytest

from orchestrator.evidence.value import DENSE, Interval
from orchestrator.report.formats import bytes_text, interval_text, seconds_text, value_text
from orchestrator.report.radar import SIZE, radar
from orchestrator.tracks import Track


def distance(point):
    return math.hypot(point.x - SIZE / 2, point.y - SIZE / 2)


def test_the_best_score_lies_at_the_end_of_its_axis(report):
    drawn = radar(report)
    dense = drawn.lines[0]
    axis = drawn.axes[Track.PERFORMANCE - 1]
    assert axis.outermost == 100
    assert distance(dense.points[0]) == pytest.approx(distance(axis.end))


def test_an_axis_stretches_to_a_score_above_100(report):
    scores = tuple(
        score.model_copy(update={"value": 250.0})
        if score.track is Track.INFERENCE_CONSUMPTION and not score.variant.is_dense
        else score
        for score in report.scores
    )
    scoring = report.scoring.model_copy(update={"scores": scores})
    drawn = radar(report.model_copy(update={"scoring": scoring}))
    assert drawn.axes[Track.INFERENCE_CONSUMPTION - 1].outermost == 250
    dense = next(line for line in drawn.lines if line.label == DENSE.label)
    assert distance(dense.points[1]) == pytest.approx(distance(drawn.axes[0].end) * 100 / 250)


def test_a_missing_score_is_a_gap_and_not_the_centre(report):
    for line in radar(report).lines:
        assert all(distance(point) > 1 for point in line.points)
        assert "missing" in line.described
    wanda = radar(report).lines[1]
    assert len(wanda.points) == 3
    assert wanda.path.count("M") == 1  # only tracks 3 and 4 are neighbours with a score


def test_lines_differ_in_more_than_colour(report):
    lines = radar(report).lines
    assert len({line.dash for line in lines}) == len(lines)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.6138, "fraction", "61.38 %"),
        (40.52, "%", "40.52 %"),
        (5.12, "perplexity", "5.12"),
        (43499.38, "perplexity", "4.3499e+04"),
        (8.5e11, "macs", "850.00 GMACs"),
        (95.62, "tokens/s", "95.62 tokens/s"),
        (241.0, "seconds", "4.0 min"),
        (math.inf, "perplexity", "infinite"),
        (math.nan, "fraction", "not a number"),
    ],
)
def test_values_read_with_their_unit(value, unit, text):
    assert value_text(value, unit) == text


@pytest.mark.parametrize(
    ("low", "high", "unit", "text"),
    [
        (3 * 2**29, 3 * 2**30, "bytes", "[1.50 GiB, 3.00 GiB]"),
        (90.0, 150.0, "seconds", "[90 s, 2.5 min]"),
        (0.25, 0.5, "fraction", "[25.0, 50.0]"),
        (19.91, 28.43, "tokens/s", "[19.91, 28.43]"),
    ],
)
def test_the_ends_of_an_interval_can_be_held_against_its_value(low: float, high: float, unit: str, text: str) -> None:
    """A unit that goes with the size stands at each end: it need not be the value's."""
    assert interval_text(Interval(low=low, high=high), unit) == text


def test_bytes_and_seconds_are_scaled():
    assert [bytes_text(size) for size in (0, 1023, 1024, 3 * 2**30)] == ["0 B", "1023 B", "1.00 KiB", "3.00 GiB"]
    assert [seconds_text(seconds) for seconds in (0.5, 110, 600, 9000)] == ["0.5 s", "110 s", "10.0 min", "2.5 h"]
