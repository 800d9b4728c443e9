"""An OM_inf that multiply-accumulates alone lift says so, whatever method it is of."""

import pytest

from harness.contract import Operation
from orchestrator.evidence.measured import StageFigures
from orchestrator.evidence.value import DENSE, Value, Values, Variant
from orchestrator.score.composition import by_subject, remark
from orchestrator.score.overall import score
from orchestrator.tracks import Place, Track, expect

WANDA = Variant(method="a method of one's own", setting="50%")
INFERENCE = expect(Track.INFERENCE_CONSUMPTION, ["tiny"])
SAVED = {"memory": 1000.0, "size": 1000.0, "macs": 600.0}
SHAPE = {"macs/shape": 1000, "macs/density": 1000}


def values(measured: dict[str, float], speed: float | None = None, protocol: str = "speed") -> Values:
    found = [
        Value(place=place, variant=variant, value=1000.0 if variant.is_dense else measured[place.part], **LOWER)
        for place in INFERENCE.places
        for variant in (DENSE, WANDA)
        if variant.is_dense or place.part in measured
    ]
    batch = Place(track=Track.HARDWARE_ACCELERATION, part="native", name="batch 1", model="tiny")
    if speed is not None:
        found += [
            Value(place=batch, variant=DENSE, value=100.0, higher_is_better=True, protocol="speed"),
            Value(place=batch, variant=WANDA, value=speed, higher_is_better=True, protocol=protocol),
        ]
    return Values(found)


LOWER = {"higher_is_better": False}


def stages(own: dict[str, int], bits: int | None = None) -> list[StageFigures]:
    found = [
        StageFigures(
            stage="profile",
            source="key",
            operation=Operation.PROFILE,
            model="tiny",
            variant=variant,
            figures={"macs": macs},
        )
        for variant, macs in ((DENSE, SHAPE), (WANDA, own))
    ]
    if bits is not None:
        figures = {"artifact.quantization.weight_bits": {"": bits}}
        found.append(
            StageFigures(
                stage="c", source="key", operation=Operation.COMPRESS, model="tiny", variant=WANDA, figures=figures
            )
        )
    return found


def said(measured: Values, made: list[StageFigures]) -> str | None:
    return remark(score(INFERENCE, WANDA, measured), measured, by_subject(made))


def test_zeros_that_save_nothing_else_are_named() -> None:
    assert said(values(SAVED, speed=98.0), stages({"macs/shape": 1000, "macs/density": 600})) == (
        "OM_inf of a method of one's own 50% rises by multiply-accumulates of zeros alone: memory, size and speed are "
        "as the dense model's, or worse"
    )


def test_a_speed_that_was_not_measured_is_not_said_to_stand() -> None:
    text = said(values(SAVED), stages({"macs/shape": 1000, "macs/density": 600}))
    assert text is not None
    assert text.endswith("alone: memory and size are as the dense model's, or worse; no speed was measured")
    other = said(values(SAVED, speed=200.0, protocol="another"), stages({"macs/shape": 1000, "macs/density": 600}))
    assert other == text, "a speed by another protocol is not to be divided by dense's"


@pytest.mark.parametrize(
    ("measured", "speed"),
    [
        ({**SAVED, "size": 500.0}, 98.0),
        ({**SAVED, "memory": 900.0}, 98.0),
        (SAVED, 120.0),
        ({**SAVED, "macs": 1000.0}, 98.0),
        ({**SAVED, "macs": 990.0}, 98.0),
    ],
)
def test_a_score_that_something_else_lifts_or_nothing_carries_no_sentence(measured, speed) -> None:
    assert said(values(measured, speed), stages({"macs/shape": 1000, "macs/density": 600})) is None


def test_a_speed_within_what_repeats_show_by_chance_is_no_speed_up() -> None:
    made = stages({"macs/shape": 1000, "macs/density": 600})
    fast = values(SAVED, speed=120.0)
    noisy = Values(
        one.model_copy(update={"noise_floor": 0.25}) if one.place.track is Track.HARDWARE_ACCELERATION else one
        for one in fast
    )
    assert said(fast, made) is None
    assert said(noisy, made) is not None


@pytest.mark.parametrize(
    ("own", "bits", "cause"),
    [
        ({"macs/shape": 1000, "macs/density": 1000}, 4, "fewer bits"),
        ({"macs/shape": 1000, "macs/density": 1000}, 16, "an unknown kind"),
        ({"macs/shape": 1000, "macs/density": 600}, 4, "zeros and fewer bits"),
        ({"macs/shape": 600, "macs/density": 600}, None, "smaller shapes"),
        ({}, None, "an unknown kind"),
    ],
)
def test_what_is_saved_is_told_by_what_was_counted(own, bits, cause) -> None:
    text = said(values(SAVED, speed=100.0), stages(own, bits))
    assert text is not None and f"multiply-accumulates of {cause} alone" in text


def test_a_cost_that_was_not_measured_is_not_said_to_stand() -> None:
    text = said(values({"size": 1000.0, "macs": 600.0}), stages({"macs/shape": 1000, "macs/density": 600}))
    assert text is not None and "alone: size are as" not in text and "size is as" in text
    assert said(values({"macs": 600.0}), stages({})) is None


def test_other_tracks_and_the_dense_model_have_no_such_sentence() -> None:
    measured = values(SAVED, speed=98.0)
    assert remark(score(INFERENCE, DENSE, measured), measured, by_subject(stages({}))) is None
    hardware = expect(Track.HARDWARE_ACCELERATION, ["tiny"], backends=["native"])
    assert remark(score(hardware, WANDA, measured), measured, by_subject(stages({}))) is None
