"""What stands below the tables of divergences and flips is about those that are there."""

import pytest

from orchestrator.report.fidelity import reading
from orchestrator.report.table import Table

TEXTS, FLIPS = Table("Divergence from dense, over text", (), (), 0), Table("Flips: other picks than dense's", (), (), 0)


@pytest.mark.parametrize(("tables", "of_texts"), [((TEXTS, FLIPS), True), ((TEXTS,), True), ((FLIPS,), False)])
def test_divergences_are_explained_where_there_are_some(tables: tuple[Table, ...], of_texts: bool) -> None:
    said = reading(tables)
    assert ("KL(dense || compressed)" in said) == of_texts
    assert said.endswith("right to wrong beside wrong to right, have to decide.")
