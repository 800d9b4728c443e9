"""A speed that differs from the dense one by no more than repeats do is marked, with the floor that was measured."""

import pytest

from orchestrator.evidence.value import DENSE, Value, Values, Variant
from orchestrator.report.table import Footnotes
from orchestrator.report.tracks import noise_text, track_views
from orchestrator.tracks import Place, Track, expect
from tests.report.small_reports import scoring_of

WANDA = Variant(method="wanda", setting="50%")
MODEL = "tiny-llama"


def speed(variant: Variant, value: float, floor: float | None, protocol: str = "speed/128-128-b1") -> Value:
    return Value(
        place=Place(track=Track.HARDWARE_ACCELERATION, part="transformers", name="batch 1", model=MODEL),
        variant=variant,
        value=value,
        unit="tokens/s",
        higher_is_better=True,
        protocol=protocol,
        noise_floor=floor,
    )


@pytest.mark.parametrize(
    ("dense", "compressed", "mark"),
    [
        ((100.0, 0.01), (102.0, 0.03), "(≈ dense, noise 3.0%)"),
        ((100.0, 0.03), (98.0, 0.01), "(≈ dense, noise 3.0%)"),
        ((100.0, 0.01), (104.0, 0.03), None),
        ((100.0, None), (100.0, 0.02), "(≈ dense, noise 2.0%)"),
        ((100.0, None), (100.0, None), "(noise not known)"),
    ],
)
def test_a_ratio_within_the_larger_floor_is_marked(dense, compressed, mark) -> None:
    values = (speed(DENSE, *dense), speed(WANDA, *compressed))
    assert noise_text(Values(values), values[1]) == mark
    assert noise_text(Values(values), values[0]) is None


def test_speeds_of_different_protocols_are_not_compared() -> None:
    values = (speed(DENSE, 100.0, 0.1), speed(WANDA, 100.0, 0.1, protocol="speed/64-64-b1"))
    assert noise_text(Values(values), values[1]) is None


def test_the_mark_stands_beside_the_value_in_the_track(report) -> None:
    values = (speed(DENSE, 100.0, 0.02), speed(WANDA, 101.0, 0.02))
    expected = expect(Track.HARDWARE_ACCELERATION, [MODEL], backends=["transformers"])
    changed = report.model_copy(update={"scoring": scoring_of(values, [expected])})
    (view,) = track_views(changed, Footnotes())
    (row,) = [row for row in view.values.rows if str(row[0]) == "wanda"]
    assert str(row[-1]).endswith("(≈ dense, noise 2.0%)")
