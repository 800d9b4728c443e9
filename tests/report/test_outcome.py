"""The one sentence that a run ends with."""

from orchestrator.evidence.value import DENSE, Interval
from orchestrator.report.outcome import outcome
from orchestrator.score.overall import Score
from orchestrator.tracks import Track, expect
from tests.report.small_reports import GPTQ, WANDA, make_report, observe, scoring_of


def changed(report, variant, track, **facts):
    """The report with another score of one variant in one track."""
    scores = tuple(
        score.model_copy(update=facts) if (score.variant, score.track) == (variant, track) else score
        for score in report.scores
    )
    return report.model_copy(update={"scoring": report.scoring.model_copy(update={"scores": scores})})


def score_of(report, variant, track) -> Score:
    found = report.scoring.score(variant, track)
    assert found is not None
    return found


def test_the_best_in_accuracy_is_named_with_what_it_lost_and_what_it_brought() -> None:
    report = make_report()
    best = score_of(report, GPTQ, Track.PERFORMANCE)
    assert best.value is not None
    text = outcome(report)
    assert text.startswith("What came out: of 2 compressed variants gptq W8A16 has the best accuracy: OM_perf ")
    assert f"OM_perf {best.value:.2f} ({len(best.counted)}/9), less than dense's 100 but without an interval" in text
    assert "OM_inf 100.00" in text
    assert "OM_hard" not in text, "no speed was measured"


def test_what_cannot_be_told_from_dense_is_not_called_less() -> None:
    report = changed(make_report(), GPTQ, Track.PERFORMANCE, value=97.0, interval=Interval(low=94.0, high=101.0))
    assert "gptq W8A16 has the best accuracy: OM_perf 97.00 [94.0, 101.0] (" in outcome(report)
    assert "not to be told apart from dense's 100" in outcome(report)
    report = changed(report, GPTQ, Track.PERFORMANCE, interval=Interval(low=94.0, high=98.0))
    assert "OM_perf 97.00 [94.0, 98.0]" in outcome(report)
    assert "less than dense's 100, and OM_inf" in outcome(report)


def test_a_remark_that_must_be_known_stands_in_the_sentence() -> None:
    report = changed(make_report(), GPTQ, Track.INFERENCE_CONSUMPTION, remark="OM_inf rises by zeros alone")
    assert outcome(report).endswith("; OM_inf rises by zeros alone.")


def test_without_a_score_there_is_nothing_to_call_best() -> None:
    only_dense = scoring_of(
        [observe(1, "knowledge", "mmlu", DENSE, 0.6, "m")], [expect(Track.PERFORMANCE, ["m"])], variants=[DENSE, WANDA]
    )
    report = make_report().model_copy(update={"scoring": only_dense})
    assert "no compressed variant has a score" in outcome(report)
