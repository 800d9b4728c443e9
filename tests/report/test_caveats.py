"""A speed that is not of the method's own weights says so beside its figure, in the warnings, and in a comparison."""

from orchestrator.evidence.value import DENSE, Value, Variant
from orchestrator.report import render_markdown
from orchestrator.score.protocols import caveat_warnings
from orchestrator.tracks import Place, Track, expect
from tests.report.small_reports import scoring_of

GPTQ = Variant(method="gptq", setting="W4A16")
MODEL = "tiny-llama"


def speed(variant: Variant, batch: int, caveat: str | None = None) -> Value:
    return Value(
        place=Place(track=Track.HARDWARE_ACCELERATION, part="mlc-llm", name=f"batch {batch}", model=MODEL),
        variant=variant,
        value=100.0,
        unit="tokens/s",
        higher_is_better=True,
        protocol=f"speed/128-128-b{batch}",
        caveat=caveat,
    )


VALUES = (*(speed(DENSE, batch) for batch in (1, 8)), *(speed(GPTQ, batch, "dense fallback") for batch in (1, 8)))


def test_a_backends_figures_give_one_warning() -> None:
    (warning,) = caveat_warnings(VALUES)
    assert warning.startswith(f"mlc-llm of {MODEL}: gptq W4A16 measured as dense fallback")


def test_the_report_shows_the_caveat_beside_each_figure_and_as_a_warning(report) -> None:
    expected = expect(Track.HARDWARE_ACCELERATION, [MODEL], backends=["mlc-llm"], batch_sizes=[1, 8])
    scoring = scoring_of(VALUES, [expected], warnings=caveat_warnings(VALUES))
    changed = report.model_copy(update={"scoring": scoring})
    page = render_markdown(changed)
    assert page.count("100 tokens/s (dense fallback)") == 2
    assert "Warning: mlc-llm of tiny-llama: gptq W4A16 measured as dense fallback" in page
