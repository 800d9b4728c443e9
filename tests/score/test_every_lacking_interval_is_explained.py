"""Whatever document lacks an interval, or the figure itself, says why in the same place."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from orchestrator.evidence.baselines import Baseline
from orchestrator.evidence.resampling import LEAST_ITEMS, Resampling
from orchestrator.evidence.value import DENSE, Value
from orchestrator.score.baselines import AgainstBaseline
from orchestrator.score.comparing import Side, compare
from orchestrator.score.comparison import TrackDifference, ValueDifference
from orchestrator.score.overall import OwnScore, Score
from orchestrator.score.ratio import Ratio
from orchestrator.score.scores import score_run
from orchestrator.tracks import Mode, Track
from tests.support.measured_runs import GPTQ, WANDA, RunMaker, coin_flips

QUICK = Resampling(resamples=200)
FEW, MANY = LEAST_ITEMS - 1, 60
SITUATIONS = ("too few items", "none in common with the baseline", "measured once")


def documents(situation: str, folder: Path) -> list[BaseModel]:
    """The scores and a comparison of a run in which some figure has no interval."""
    made = RunMaker(folder)
    for seed, variant in enumerate((DENSE, WANDA, GPTQ)):
        if situation == "none in common with the baseline":
            made.add(variant, "piqa" if variant == GPTQ else "arc_easy", coin_flips(0.6, MANY, seed))
        elif situation == "too few items":
            made.add(variant, "arc_easy", [float(seed != item) for item in range(FEW)])
            if variant != GPTQ:
                made.add(variant, "piqa", coin_flips(0.6, MANY, seed))
        else:
            cost = {"higher_is_better": False, "unit": "seconds", "protocol": "cost/compress"}
            made.observe(Track.TRAINING_CONSUMPTION, "time", "compress_seconds", variant, 10.0 + seed, **cost)
            made.add(variant, "arc_easy", coin_flips(0.6, MANY, seed))
    made.baselines = {GPTQ: (Baseline(variant=WANDA),)}
    evidence = made.evidence(QUICK)
    return [score_run(evidence), compare(Side(evidence, GPTQ), Side(evidence, WANDA), Mode.PAPER, QUICK)]


def records(document: object) -> Iterator[BaseModel]:
    """All within a document that can have an interval."""
    if isinstance(document, BaseModel):
        if "interval" in type(document).model_fields:
            yield document
        for name in type(document).model_fields:
            yield from records(getattr(document, name))
    elif isinstance(document, tuple | list):
        for one in document:
            yield from records(one)


def test_what_has_no_interval_has_a_reason_and_what_has_one_has_none(tmp_path: Path) -> None:
    lacking = set()
    for situation in SITUATIONS:
        (folder := tmp_path / situation).mkdir()
        for one in records(documents(situation, folder)):
            said = one.model_dump(include={"interval", "interval_reason", "reason"})
            interval = said.pop("interval")
            assert any(said.values()) is (interval is None), one
            lacking |= {type(one)} if interval is None else set()
    assert lacking == {Value, Ratio, Score, OwnScore, AgainstBaseline, ValueDifference, TrackDifference}
