"""A manifest chooses which task or metric enters a score; the choice shows, and nothing unlike is compared."""

import pytest
from pydantic import ValidationError

from harness.contract import TaskDescription
from orchestrator.errors import BadManifest
from orchestrator.evidence.value import DENSE, Value, Values, Variant
from orchestrator.manifest import ScoringEntry
from orchestrator.plan.choices import check_choices
from orchestrator.score.overall import score
from orchestrator.tracks import Mode, Place, Track, expect, expected_tasks, parts_of_task

WANDA = Variant(method="wanda", setting="50%")


def task(name: str, dataset: str, metric: str, *, better: bool) -> tuple[str, TaskDescription]:
    description = TaskDescription(name=name, dataset=dataset, protocol=name, metric=metric, higher_is_better=better)
    return name, description


TASKS = dict(
    [
        task("wikitext2", "wikitext2", "perplexity", better=False),
        task("wikitext2-maxctx", "wikitext2", "perplexity", better=False),
        task("mmlu", "mmlu", "acc", better=True),
        task("mmlu-5shot", "mmlu", "acc", better=True),
        task("piqa", "piqa", "acc_norm", better=True),
        task("wikitext2-words", "wikitext2", "accuracy", better=True),
    ]
)


def perplexity(variant: Variant, model: str, value: float, *, protocol: str = "ppl") -> Value:
    return Value(
        place=Place(track=Track.GENERALIZATION, part="perplexity", name="wikitext2-maxctx", model=model),
        variant=variant,
        value=value,
        higher_is_better=False,
        protocol=protocol,
    )


def test_by_default_wikitext2_enters_both_tracks() -> None:
    assert parts_of_task("wikitext2", ScoringEntry()) == (
        (Track.PERFORMANCE, "inference"),
        (Track.GENERALIZATION, "perplexity"),
    )
    assert parts_of_task("wikitext2-maxctx", ScoringEntry()) == ()


def test_a_generalization_task_enters_track_2_alone() -> None:
    chosen = ScoringEntry(generalization="wikitext2-maxctx")
    assert parts_of_task("wikitext2-maxctx", chosen) == ((Track.GENERALIZATION, "perplexity"),)
    assert parts_of_task("wikitext2", chosen) == ((Track.PERFORMANCE, "inference"),)
    assert expect(Track.GENERALIZATION, ["m"], scoring=chosen).parts == {"perplexity": ("wikitext2-maxctx",)}


def test_a_replaced_task_takes_the_place_of_its_data_set() -> None:
    chosen = ScoringEntry(tasks={"mmlu": "mmlu-5shot", "wikitext2": "wikitext2-maxctx"})
    assert expect(Track.PERFORMANCE, ["m"], scoring=chosen).parts["knowledge"][0] == "mmlu-5shot"
    assert expect(Track.GENERALIZATION, ["m"], scoring=chosen).parts == {"perplexity": ("wikitext2-maxctx",)}
    assert "mmlu" not in expected_tasks(chosen)
    assert parts_of_task("mmlu", chosen) == ()


def test_the_papers_truthfulness_is_its_own_task_and_takes_no_other_beside_it() -> None:
    chosen = ScoringEntry(truthfulness="paper")
    assert expect(Track.TRUSTWORTHINESS, ["m"], scoring=chosen).parts["truthfulness"] == ("truthfulqa-paper",)
    assert parts_of_task("truthfulqa-paper", chosen) == ((Track.TRUSTWORTHINESS, "truthfulness"),)
    assert parts_of_task("truthfulqa", chosen) == ()
    assert ScoringEntry(truthfulness="paper", tasks={"truthfulqa": "truthfulqa-paper"}).chosen_tasks == {
        "truthfulqa": "truthfulqa-paper"
    }
    with pytest.raises(ValidationError, match="tasks has truthfulqa stand for it; remove one"):
        ScoringEntry(truthfulness="paper", tasks={"truthfulqa": "truthfulqa"})


def test_the_default_choices_expect_what_the_papers_tables_hold() -> None:
    for track in Track:
        chosen = expect(track, ["m"], backends=["vllm"], scoring=ScoringEntry())
        assert chosen.parts == expect(track, ["m"], backends=["vllm"]).parts


def test_the_metric_of_truthfulness_stands_in_the_scores_coverage() -> None:
    values = [
        Value(
            place=Place(track=Track.TRUSTWORTHINESS, part=part, name=name, model="m"),
            variant=variant,
            value=0.5,
            higher_is_better=True,
        )
        for variant in (DENSE, WANDA)
        for part, name in (("robustness", "advglue"), ("truthfulness", "truthfulqa"))
    ]
    expectation = expect(Track.TRUSTWORTHINESS, ["m"], scoring=ScoringEntry(truthfulness="mc1"))
    coverage = score(expectation, WANDA, Values(values)).coverage
    assert coverage.choices == ("truthfulness is mc1",)
    assert coverage.summary == "2 of 2 data sets; truthfulness is mc1"


def test_paper_mode_counts_models_and_strict_mode_families() -> None:
    chosen = ScoringEntry(generalization="wikitext2-maxctx")
    families = {"a": "one", "b": "one", "c": "two"}
    expectation = expect(Track.GENERALIZATION, list(families), families=families, scoring=chosen)
    values = [
        value
        for model, perplexity_of_wanda in (("a", 10.0), ("b", 10.0), ("c", 40.0))
        for value in (perplexity(DENSE, model, 10.0), perplexity(WANDA, model, perplexity_of_wanda))
    ]
    paper = score(expectation, WANDA, Values(values), mode=Mode.PAPER)
    strict = score(expectation, WANDA, Values(values), mode=Mode.STRICT)
    assert paper.value == pytest.approx(100 * ((1 + 1 + 0.0625) / 3) ** 0.5)
    assert strict.value == pytest.approx(100 * ((1 + 0.0625) / 2) ** 0.5)
    assert [part.name for part in strict.parts] == ["one", "two"]


def test_perplexities_of_unlike_segments_are_not_compared() -> None:
    expectation = expect(Track.GENERALIZATION, ["m"], scoring=ScoringEntry(generalization="wikitext2-maxctx"))
    values = [
        perplexity(DENSE, "m", 10.0, protocol="ppl/wikitext2-maxctx of 512 tokens"),
        perplexity(WANDA, "m", 12.0, protocol="ppl/wikitext2-maxctx of 256 tokens"),
    ]
    result = score(expectation, WANDA, Values(values))
    assert result.value is None
    assert "of 256 tokens" in (result.reason or "")


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (ScoringEntry(tasks={"mmmlu": "mmlu"}), "did you mean 'mmlu'"),
        (ScoringEntry(tasks={"mmlu": "mmlu-5shots"}), "did you mean 'mmlu-5shot'"),
        (ScoringEntry(generalization="wikitext2-maxct"), "did you mean 'wikitext2-maxctx'"),
        (ScoringEntry(generalization="piqa"), "cannot stand for 'wikitext2'"),
        (ScoringEntry(tasks={"mmlu": "piqa"}), "cannot stand for 'mmlu'"),
        (ScoringEntry(tasks={"wikitext2": "wikitext2-words"}), "cannot stand for 'wikitext2'"),
    ],
)
def test_a_choice_that_measures_something_else_is_refused(chosen: ScoringEntry, words: str) -> None:
    with pytest.raises(BadManifest) as caught:
        check_choices(chosen, TASKS)
    assert words in caught.value.message
    assert caught.value.hint


def test_sound_choices_pass() -> None:
    check_choices(ScoringEntry(tasks={"mmlu": "mmlu-5shot"}, generalization="wikitext2-maxctx"), TASKS)
