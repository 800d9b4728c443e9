"""The column of the paper's table that a variant stands in follows from what its method did."""

import pytest

from harness.contract import Setting
from orchestrator.evidence.categories import Category, category_of
from orchestrator.evidence.reading import read_evidence
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import keeping_worker

CALIBRATION = {"dataset": "c4", "samples": 2, "sequence_length": 16}


@pytest.mark.parametrize(
    ("setting", "whole_units", "category"),
    [
        ("50%", False, Category.UNSTRUCTURED),
        ("50%", True, Category.STRUCTURED),
        ("2:4", False, Category.TWO_OF_FOUR),
        ("4:8", False, None),
        ("W8A8", False, Category.INT8),
        ("W8A16", False, Category.INT8),
        ("W4A16g64", False, Category.INT4),
        ("W3A16", False, None),
    ],
)
def test_a_setting_is_of_one_category_or_of_none(setting: str, whole_units: bool, category: Category | None) -> None:
    assert category_of(Setting.parse(setting), whole_units=whole_units) is category


def test_each_variant_of_a_run_has_the_category_of_what_its_method_removes(bench: Bench) -> None:
    asked = [("sparsegpt", "50%"), ("wanda", "2:4"), ("wanda", "4:8"), ("llm-pruner", "25%"), ("gptq", "W4A16g16")]
    entries = [{"method": method, "setting": setting} for method, setting in asked]
    manifest = {**MANIFEST, "compress": entries, "calibration": CALIBRATION, "evaluate": None, "benchmark": None}
    record = bench.run(FakeRuntime(keeping_worker), manifest)
    found = read_evidence(record, bench.store, bench.catalog).categories
    assert {variant.label: category for variant, category in found.items()} == {
        "sparsegpt 50%": Category.UNSTRUCTURED,
        "wanda 2:4": Category.TWO_OF_FOUR,
        "llm-pruner 25%": Category.STRUCTURED,
        "gptq W4A16g16": Category.INT4,
    }
