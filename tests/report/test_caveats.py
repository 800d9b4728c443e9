"""A speed that is not of the method's own weights says so beside its figure, in the warnings, and in a comparison."""

from orchestrator.evidence.observation import DENSE, Observation, Variant
from orchestrator.report import render_markdown
from orchestrator.score import score_all
from orchestrator.score.uncertainty import Resampling
from orchestrator.score.uncertainty.protocols import caveat_warnings
from orchestrator.score.uncertainty.records import RunScores
from orchestrator.tracks import Track, expect

GPTQ = Variant(method="gptq", setting="W4A16")
MODEL = "tiny-llama"


def speed(variant: Variant, batch: int, caveat: str | None = None) -> Observation:
    return Observation(
        track=Track.HARDWARE_ACCELERATION,
        part="mlc-llm",
        name=f"batch {batch}",
        model=MODEL,
        method=variant.method,
        setting=variant.setting,
        value=100.0,
        unit="tokens/s",
        higher_is_better=True,
        protocol=f"speed/128-128-b{batch}",
        caveat=caveat,
    )


OBSERVATIONS = (*(speed(DENSE, batch) for batch in (1, 8)), *(speed(GPTQ, batch, "dense fallback") for batch in (1, 8)))


def test_a_backends_figures_give_one_warning() -> None:
    (warning,) = caveat_warnings(OBSERVATIONS)
    assert warning.startswith(f"mlc-llm of {MODEL}: gptq W4A16 measured as dense fallback")


def test_the_report_shows_the_caveat_beside_each_figure_and_as_a_warning(report) -> None:
    expected = expect(Track.HARDWARE_ACCELERATION, [MODEL], backends=["mlc-llm"], batch_sizes=[1, 8])
    scores = tuple(score_all([expected], OBSERVATIONS, gaps=[], variants=[DENSE, GPTQ]))
    warnings = caveat_warnings(OBSERVATIONS)
    uncertainty = RunScores(run="r", mode=report.mode, resampling=Resampling(), scores=(), warnings=warnings)
    changed = report.model_copy(update={"observations": OBSERVATIONS, "scores": scores, "uncertainty": uncertainty})
    page = render_markdown(changed)
    assert page.count("100 tokens/s (dense fallback)") == 2
    assert "Warning: mlc-llm of tiny-llama: gptq W4A16 measured as dense fallback" in page
