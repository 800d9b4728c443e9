"""Which bits and groups a method is planned with, and in which format its checkpoint will be."""

import pytest

from harness.contract import CalibrationDefaults, CheckpointFormat, MethodDescription, Setting
from orchestrator.errors import BadManifest
from orchestrator.manifest import CompressEntry
from orchestrator.plan.resolving import planned_format, resolve_setting


def describe(**changes):
    facts = {
        "name": "rounding",
        "summary": "",
        "reference": "",
        "patterns": ("W4A16", "W8A8"),
        "default_setting": "W4A16",
        "calibration": CalibrationDefaults(dataset="c4", samples=1, sequence_length=1, seed=0),
        "architectures": (),
    }
    return MethodDescription(**(facts | changes))


def test_any_group_is_accepted_with_the_bits_that_are_listed():
    entry = CompressEntry(method="rounding", setting="W4A16g96")
    assert resolve_setting(entry, describe(any_group=True)).group_size == 96
    with pytest.raises(BadManifest, match="no setting 'W4A16g96'"):
        resolve_setting(entry, describe())


@pytest.mark.parametrize("setting", ["W3A16g128", "50%", "2:4"])
def test_other_bits_and_sparsities_are_refused_and_the_hint_has_the_groups(setting):
    with pytest.raises(BadManifest, match="no setting") as refusal:
        resolve_setting(CompressEntry(method="rounding", setting=setting), describe(any_group=True))
    assert "any group size" in refusal.value.hint


@pytest.mark.parametrize(
    ("setting", "options", "expected"),
    [
        ("W4A16g32", {}, CheckpointFormat.PACK_QUANTIZED),
        ("W8A8", {}, CheckpointFormat.INT_QUANTIZED),
        ("W8A8", {"layout": "dense"}, CheckpointFormat.DENSE),
        ("W4A16", {"layout": "unknown"}, CheckpointFormat.PACK_QUANTIZED),
        ("50%", {}, CheckpointFormat.PACK_QUANTIZED),
    ],
)
def test_the_format_follows_from_the_layout_asked_for_else_from_the_setting(setting, options, expected):
    method = describe(
        produces=CheckpointFormat.PACK_QUANTIZED,
        produces_for={"W8A8": CheckpointFormat.INT_QUANTIZED},
        layouts={"dense": CheckpointFormat.DENSE},
    )
    assert planned_format(method, Setting.parse(setting), options) is expected
