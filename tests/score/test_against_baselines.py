"""A variant that does not beat its baseline beyond noise is marked, wherever its score stands."""

import numpy as np
import pytest

from orchestrator.evidence.baselines import Baseline
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE, Variant
from orchestrator.report.answers import comparison_blocks, score_blocks
from orchestrator.score.baselines import AgainstBaseline
from orchestrator.score.comparing import Side, compare
from orchestrator.score.scores import score_run
from orchestrator.tracks import Mode, Track
from tests.support.measured_runs import GPTQ, RunMaker, coin_flips

QUICK = Resampling(resamples=500)
RTN = Variant(method="rtn", setting="W4A16")
LOSSES = [1.5 + 0.5 * flip for flip in coin_flips(0.5, 60, 5)]


def run_of(tmp_path, factor, differs=()):
    """Perplexities: rtn loses 10 % of dense's, gptq `factor` of it, segment by segment with a little noise."""
    made = RunMaker(tmp_path)
    noise = np.random.default_rng(3).normal(0, 0.01, len(LOSSES))
    made.add(DENSE, "wikitext2", LOSSES)
    made.add(RTN, "wikitext2", [1.1 * loss for loss in LOSSES])
    made.add(GPTQ, "wikitext2", [factor * loss + extra for loss, extra in zip(LOSSES, noise, strict=True)])
    made.baselines = {GPTQ: (Baseline(variant=RTN, differs=differs),)}
    return made


def judged(made):
    document = score_run(made.evidence(QUICK))
    return document, {one.track: one for one in document.baselines}


def test_a_method_that_is_better_beyond_noise_beats_its_baseline(tmp_path):
    document, found = judged(run_of(tmp_path, 1.05))
    one = found[Track.GENERALIZATION]
    apart = [document.score(variant, Track.GENERALIZATION).value for variant in (GPTQ, RTN)]
    assert one.beats
    assert one.difference == pytest.approx(apart[0] - apart[1])
    assert 0 < one.interval.low < one.difference < one.interval.high
    assert one.sentence is None
    assert document.against_baselines(GPTQ, Track.GENERALIZATION) == ()
    assert "does not beat" not in text_of(score_blocks(document))


@pytest.mark.parametrize(("factor", "says"), [(1.1, "does not beat"), (1.2, "is worse than")], ids=["as good", "worse"])
def test_one_that_is_not_is_marked_beside_its_score(tmp_path, factor, says):
    document, found = judged(run_of(tmp_path, factor))
    assert set(found) == {Track.PERFORMANCE, Track.GENERALIZATION}
    one = found[Track.GENERALIZATION]
    assert one.beats is False
    assert one.interval.low <= 0 and (one.interval.high < 0) == (says == "is worse than")
    assert one.sentence == (
        f"{says} rtn W4A16 beyond noise: {one.difference:+.2f} "
        f"[{one.interval.low:.2f}, {one.interval.high:.2f}] of OM_gen"
    )
    text = text_of(score_blocks(document))
    assert f"gptq W4A16 {one.sentence}" in text
    assert document.against_baselines(RTN, Track.GENERALIZATION) == ()


def test_the_difference_is_paired_so_that_small_ones_show(tmp_path):
    """The intervals of the two scores overlap."""
    document, found = judged(run_of(tmp_path, 1.096))
    ours, rtn = (document.score(variant, Track.GENERALIZATION) for variant in (GPTQ, RTN))
    assert ours.interval.low < rtn.interval.high
    assert found[Track.GENERALIZATION].beats


def test_only_values_that_both_have_count(tmp_path):
    made = run_of(tmp_path, 1.2)
    flips = coin_flips(0.7, 80, 1)
    made.add(DENSE, "arc_easy", flips)
    made.add(GPTQ, "arc_easy", flips)
    document, found = judged(made)
    assert document.score(GPTQ, Track.PERFORMANCE).coverage.values == 2
    assert found[Track.PERFORMANCE].values == 1
    assert found[Track.PERFORMANCE].beats is False


def test_what_cannot_be_told_is_said(tmp_path):
    made = RunMaker(tmp_path)
    flips = coin_flips(0.7, 80, 1)
    for variant in (DENSE, GPTQ):
        made.add(variant, "arc_easy", flips)
    made.baselines = {GPTQ: (Baseline(variant=RTN),)}
    _, found = judged(made)
    assert set(found) == {Track.PERFORMANCE}
    assert found[Track.PERFORMANCE].sentence == "not known whether it beats rtn W4A16: no value counts for both"


def test_a_baseline_with_another_grid_says_so():
    one = AgainstBaseline(
        track=Track.PERFORMANCE,
        variant=GPTQ,
        baseline=Baseline(variant=RTN, differs=("with symmetric weights",)),
        reason="no items",
    )
    assert one.sentence == "not known whether it beats rtn W4A16 (with symmetric weights): no items"


def test_a_comparison_with_the_baseline_says_it_too(tmp_path):
    evidence = run_of(tmp_path, 1.2).evidence(QUICK)
    sides = Side(evidence, GPTQ), Side(evidence, RTN)
    document = compare(*sides, Mode.PAPER, QUICK)
    warned = [one for one in document.warnings if "beyond noise" in one]
    assert len(warned) == 2
    assert all(one.startswith("gptq W4A16 is worse than rtn W4A16 beyond noise: -") for one in warned)
    assert "is worse than rtn W4A16" in text_of(comparison_blocks(document))
    assert not any("beyond noise" in one for one in compare(*reversed(sides), Mode.PAPER, QUICK).warnings)


@pytest.mark.parametrize("factor", [1.05, 1.096, 1.1, 1.2])
def test_a_comparison_says_of_the_baseline_what_the_scores_say(tmp_path, factor):
    """Also where the difference is less than a point."""
    made = run_of(tmp_path, factor)
    _, found = judged(made)
    evidence = made.evidence(QUICK)
    document = compare(Side(evidence, GPTQ), Side(evidence, RTN), Mode.PAPER, QUICK)
    warned = [one for one in document.warnings if "beyond noise" in one or "beats" in one]
    assert warned == [f"gptq W4A16 {one.sentence}" for one in found.values() if one.sentence is not None]


def text_of(blocks):
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=400)
    for block in blocks:
        console.print(block)
    return console.file.getvalue()
