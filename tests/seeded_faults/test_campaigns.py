"""A campaign's tally counts what changes something, when drawn and now, and the page says what is kept."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.seeded_faults import page
from tests.seeded_faults.areas import areas
from tests.seeded_faults.record import OUTCOMES, Campaign, Share, Tried, explained, read, write

CAMPAIGN = Campaign(
    "store",
    seed=7,
    faults=900,
    tests=30,
    seconds_each=10,
    unusable=["tests/x.py::test_y: ['failed']"],
    tried=[
        Tried("a", "noticed", "-1\n+2"),
        Tried("b", "timeout", "-1\n+2"),
        Tried("c", "not noticed", "-1\n+2"),
        Tried("d", "not noticed", "-1\n+2"),
        Tried("e", "not reached", "-1\n+2"),
    ],
)


def test_what_changes_nothing_does_not_count_and_what_is_noticed_since_counts_apart() -> None:
    tally = CAMPAIGN.again({"d": "noticed", "e": "not noticed"}).tally({"c": "the same number"})
    assert tally.equivalent == 1
    assert (tally.when_drawn, tally.now) == (Share(2, 4), Share(3, 4))


@pytest.mark.parametrize(
    ("share", "low", "high"),
    [(Share(0, 10), 0.0, 0.3085), (Share(57, 60), 0.8608, 0.9896), (Share(60, 60), 0.9404, 1.0)],
)
def test_the_interval_is_exact(share: Share, low: float, high: float) -> None:
    assert share.interval == pytest.approx((low, high), abs=5e-5)


def test_a_campaign_is_kept_as_it_was(tmp_path: Path) -> None:
    again = CAMPAIGN.again({"d": "noticed"})
    write(again, tmp_path)
    assert read(tmp_path / "store.jsonl") == again


def test_the_page_says_what_is_kept_of_each_area() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
    assert {file.stem for file in OUTCOMES.glob("*.jsonl")} <= {area.name for area in areas()}


def test_the_page_names_the_areas_of_which_nothing_is_known(tmp_path: Path) -> None:
    names = [area.name for area in areas()]
    assert f"Not measured: {', '.join(names)}.\n" in page.page(tmp_path)
    write(replace(CAMPAIGN, tried=CAMPAIGN.tried[:1]), tmp_path)
    written = page.page(tmp_path)
    assert f"Not measured: {', '.join(name for name in names if name != 'store')}.\n" in written
    assert "| store | 900 | 1 (7) | 0 | 1/1: 100.0% (2.5% to 100.0%) | 1/1: 100.0% (2.5% to 100.0%) | 30 |" in written


def test_only_faults_of_the_last_campaign_are_explained_each_once() -> None:
    left = {one.name for file in OUTCOMES.glob("*.jsonl") for one in read(file).tried if not one.noticed}
    equivalent, unnoticed = explained()
    assert equivalent.keys() | unnoticed.keys() == left
    assert not equivalent.keys() & unnoticed.keys()


def test_a_seeded_file_does_what_it_did_until_a_fault_is_switched_on(tmp_path: Path) -> None:
    pytest.importorskip("mutmut", reason="`make mutants` installs it")
    from tests.seeded_faults.seeding import Source

    file = tmp_path / "sums.py"
    file.write_text("def add(a, b):\n    return a + b\n", encoding="utf-8")
    source = Source(file, tmp_path)
    (fault,) = source.seed(range(len(source)))
    assert fault.difference == "-    return a + b\n+    return a - b"
    assert fault.name == fault.switch == "sums.x_add__mutmut_1"
