"""What came out of a run, in one sentence: the best variant, what it lost, and what that brought."""

from orchestrator.report.formats import interval_text, plural, score_text
from orchestrator.report.model import RunReport
from orchestrator.score.overall import Score
from orchestrator.tracks import Track

_ACCURACY = (Track.PERFORMANCE, Track.GENERALIZATION, Track.TRUSTWORTHINESS)
_BROUGHT = (Track.INFERENCE_CONSUMPTION, Track.HARDWARE_ACCELERATION)


def outcome(report: RunReport) -> str:
    """One sentence. Where several variants cannot be told apart from the best, it says which.

    The best is the compressed variant with the most in the first track of accuracy that has a score.
    """
    found = [ranked for track in _ACCURACY if (ranked := _ranked(report, track))]
    costs = [ranked for track in _BROUGHT if (ranked := _ranked(report, track))]
    if not found and not costs:
        return "What came out: no compressed variant has a score that can be held against the dense model's."
    best = (found or costs)[0][0]
    brought = [score for track in _BROUGHT if (score := _score(report, best, track)) is not None]
    if not found:
        return f"What came out: {best.variant.label}, whose accuracy is not known, has {_listed(brought)}."
    sentence = f"What came out: {_named(best, found[0])}: {_against_dense(best)}"
    sentence += f", and {_listed(brought)}" if brought else "; what that brings was not measured"
    remarks = _remarks(report, best, found[0])
    return f"{sentence}{''.join(f'; {remark}' for remark in remarks)}."


def _ranked(report: RunReport, track: Track) -> list[Score]:
    """The compressed variants with a score in the track, the best first."""
    scores = [one for one in report.scores if one.track is track and one.value is not None and not one.variant.is_dense]
    return sorted(scores, key=lambda one: -(one.value or 0.0))


def _score(report: RunReport, best: Score, track: Track) -> Score | None:
    score = report.scoring.score(best.variant, track)
    return score if score is not None and score.value is not None else None


def _named(best: Score, ranked: list[Score]) -> str:
    if len(ranked) == 1:
        return best.variant.label
    return f"of {plural(len(ranked), 'compressed variant')} {best.variant.label} has the best accuracy"


def _against_dense(score: Score) -> str:
    """For instance `OM_perf 79.27 [65.0, 96.5] (4/9), less than dense's 100`."""
    assert score.value is not None  # noqa: S101  only those with a value come here
    text = f"{score.metric} {score_text(score.value)}"
    if score.interval is not None:
        text += f" {interval_text(score.interval)}"
    if score.is_partial:
        text += f" ({len(score.counted)}/{score.coverage.values_expected})"
    if score.like_dense or (score.interval is not None and score.interval.holds(100)):
        return f"{text}, not to be told apart from dense's 100"
    text += f", {'more' if score.value > 100 else 'less'} than dense's 100"
    return text if score.interval is not None else f"{text} but without an interval"


def _listed(scores: list[Score]) -> str:
    return " and ".join(map(_against_dense, scores))


def _remarks(report: RunReport, best: Score, ranked: list[Score]) -> list[str]:
    """What has to be known before the sentence is believed."""
    alike = [one.variant.label for one in ranked[1:] if report.scoring.like_best(one.variant, one.track)]
    remarks = [f"{', '.join(alike)} cannot be told apart from it"] if alike else []
    said = report.scoring.against_baselines(best.variant, best.track)
    remarks += [line if line.startswith("not known") else f"it {line}" for line in said]
    scores = [best, *(_score(report, best, track) for track in _BROUGHT)]
    return remarks + [score.remark for score in scores if score is not None and score.remark is not None]
