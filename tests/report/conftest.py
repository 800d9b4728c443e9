"""One report that shows every case, and the same with names that no form of it may read as markup."""

import pytest

from orchestrator.report import RunReport
from tests.report.small_reports import HOSTILE, make_report


@pytest.fixture
def report() -> RunReport:
    return make_report()


@pytest.fixture
def hostile_report() -> RunReport:
    return make_report(model=HOSTILE, run_id=HOSTILE, message=f"{HOSTILE}\n| [bold]broken[/bold] & *more* |")
