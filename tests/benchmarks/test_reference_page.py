"""The reference results are those of the artifact that lies beside them, which verifies."""

import pytest

from benchmarks.h200.reference_page import ARTIFACT, BESIDE, PAGE, page
from orchestrator.artifact.verification import Outcome
from orchestrator.artifact.verifying import verify


@pytest.mark.slow
def test_the_page_is_as_the_artifact_gives_it() -> None:
    assert PAGE.read_text("utf-8") == page(ARTIFACT, BESIDE.read_text("utf-8")), (
        "`python benchmarks/h200/reference_page.py` writes it anew"
    )


@pytest.mark.slow
def test_the_artifact_verifies_with_its_source_and_nothing_failing() -> None:
    found = verify(ARTIFACT)
    assert found.holds
    held = {one.name: one.count for one in found.checks if one.outcome is Outcome.HOLDS}
    assert held["source"] == held["record, results and outcomes"] == 157 and held["scores"] == 152
