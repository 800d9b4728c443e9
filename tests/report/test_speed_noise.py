"""A speed that differs from the dense one by no more than repeats do is marked, with the floor that was measured."""

import pytest

from orchestrator.evidence.observation import DENSE, Observation, Variant
from orchestrator.report.noise import noise_text
from orchestrator.report.table import Footnotes
from orchestrator.report.tracks import track_views
from orchestrator.score import score_all
from orchestrator.tracks import Track, expect

WANDA = Variant(method="wanda", setting="50%")
MODEL = "tiny-llama"


def speed(variant: Variant, value: float, floor: float | None, protocol: str = "speed/128-128-b1") -> Observation:
    return Observation(
        track=Track.HARDWARE_ACCELERATION,
        part="transformers",
        name="batch 1",
        model=MODEL,
        method=variant.method,
        setting=variant.setting,
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
        ((100.0, None), (100.0, None), None),
    ],
)
def test_a_ratio_within_the_larger_floor_is_marked(report, dense, compressed, mark) -> None:
    observations = (speed(DENSE, *dense), speed(WANDA, *compressed))
    changed = report.model_copy(update={"observations": observations})
    assert noise_text(changed, observations[1]) == mark
    assert noise_text(changed, observations[0]) is None


def test_speeds_of_different_protocols_are_not_compared(report) -> None:
    observations = (speed(DENSE, 100.0, 0.1), speed(WANDA, 100.0, 0.1, protocol="speed/64-64-b1"))
    changed = report.model_copy(update={"observations": observations})
    assert noise_text(changed, observations[1]) is None


def test_the_mark_stands_beside_the_value_in_the_track(report) -> None:
    observations = (speed(DENSE, 100.0, 0.02), speed(WANDA, 101.0, 0.02))
    expected = expect(Track.HARDWARE_ACCELERATION, [MODEL], backends=["transformers"])
    changed = report.model_copy(
        update={
            "observations": observations,
            "scores": tuple(score_all([expected], observations, gaps=[], variants=[DENSE, WANDA])),
        }
    )
    (view,) = track_views(changed, Footnotes())
    (values,) = [row for row in view.values.rows if str(row[0]) == "wanda"]
    assert str(values[-1]).endswith("(≈ dense, noise 2.0%)")
