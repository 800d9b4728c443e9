"""A campaign in small: a fault of every kind, after which a run comes to the figures of an undisturbed one."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaign import Campaign, kinds_here
from tests.faults.kinds import KINDS, Kind
from tests.faults.record import OUTCOMES, PAGE, page_with, read

SEEDS = (1001,)


@pytest.fixture(scope="module")
def campaign() -> Iterator[Campaign]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Campaign(Path(folder) / "worlds")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_after_a_fault_a_run_comes_to_the_same_figures_and_leaves_nothing(campaign: Campaign, kind: Kind) -> None:
    if kind not in kinds_here():
        pytest.skip(f"user {os.geteuid()} may not mount disks, or be somebody else")
    for seed in SEEDS:
        done = campaign.inject(kind, seed)
        assert not done.wrong, done


@pytest.mark.slow
def test_a_campaign_notices_what_a_fault_leaves(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaving(world: object, dice: object) -> str:
        folder = world.temporary / "llmcbench-0-1-2-3"  # type: ignore[attr-defined]
        folder.mkdir()
        return "a folder"

    assert "left over: scratch llmcbench-0-1-2-3" in campaign.inject(Kind("leaving", leaving), 0).wrong
    monkeypatch.setattr(campaign, "figures", campaign.figures.replace("OM_perf", "OM_other"))
    assert "other figures" in campaign.inject(Kind("nothing", lambda world, dice: "nothing"), 0).wrong


def test_the_page_says_what_the_last_campaign_came_to() -> None:
    done = read(OUTCOMES)
    text = PAGE.read_text("utf-8")
    assert text == page_with(text, done)
    assert len({(one.kind, one.seed) for one in done}) == len(done)
    assert {one.kind for one in done} == {kind.name for kind in KINDS}
