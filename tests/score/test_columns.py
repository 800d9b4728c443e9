"""Scores that stand in one column rest on the same values; what a variant has beyond them decides nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE, Value, Values, Variant
from orchestrator.report.tracks import column_notes
from orchestrator.score.overall import NOTHING_IN_COMMON, Score, score, score_all
from orchestrator.score.scores import score_run
from orchestrator.tracks import Mode, Place, Track, expect
from tests.support.measured_runs import GPTQ, WANDA, RunMaker, coin_flips

AWQ = Variant(method="awq", setting="W4A16")
COMPRESSED = (WANDA, GPTQ, AWQ)
PERFORMANCE = expect(Track.PERFORMANCE, ["tiny"])
PLACES = {place.name: place for place in PERFORMANCE.places}


def value(variant: Variant, place: Place, measured: float) -> Value:
    return Value(place=place, variant=variant, value=measured, higher_is_better=place.name != "wikitext2")


def accuracies(variant: Variant, **measured: float) -> list[Value]:
    return [value(variant, PLACES[name], one) for name, one in measured.items()]


def column(values: list[Value], **options: object) -> dict[Variant, Score]:
    scores = score_all([PERFORMANCE], Values(values), variants=(DENSE, *COMPRESSED), **options)
    return {one.variant: one for one in scores}


ALL = {"mmlu": 0.5, "arc_easy": 0.5, "piqa": 0.5, "hellaswag": 0.5, "qnli": 0.5}


def test_a_score_of_easy_values_alone_does_not_stand_above_one_of_all() -> None:
    """GPTQ was measured where it is easy. Over that, Wanda is better, and the column says so."""
    values = [
        *accuracies(DENSE, **ALL),
        *accuracies(WANDA, mmlu=0.2, arc_easy=0.48, piqa=0.48, hellaswag=0.2, qnli=0.2),
        *accuracies(GPTQ, arc_easy=0.45, piqa=0.45),
    ]
    found = column(values)
    assert found[WANDA].value == pytest.approx(96)
    assert found[GPTQ].value == pytest.approx(90)
    assert found[WANDA].own is not None
    knowledge, inference = (0.4**2 + 0.96**2) / 2, (0.96**2 + 0.4**2 + 0.4**2) / 3
    assert found[WANDA].own.value == pytest.approx(100 * math.sqrt((knowledge + inference) / 2))
    assert found[GPTQ].own is None, "all that it has is what all have"
    assert {term.place.name: term.common for term in found[WANDA].ratios} == {
        "mmlu": False,
        "arc_easy": True,
        "hellaswag": False,
        "piqa": True,
        "qnli": False,
    }
    assert [part.value for part in found[WANDA].parts] == [pytest.approx(96), pytest.approx(96)]
    assert [part.values for part in found[WANDA].own.parts] == [2, 3]
    assert found[WANDA].coverage.values == 5, "what was measured of it stays told"
    assert found[WANDA].is_partial


def test_the_note_names_what_the_column_rests_on() -> None:
    values = [*accuracies(DENSE, **ALL), *accuracies(WANDA, mmlu=0.2, piqa=0.4), *accuracies(GPTQ, piqa=0.45)]
    (note,) = column_notes(column(values).values())
    assert note.startswith(
        "OM_perf is computed over the 1 value that all compressed variants with a score have (piqa of"
    )


def test_no_value_in_common_is_no_score_and_says_so() -> None:
    found = column([*accuracies(DENSE, **ALL), *accuracies(WANDA, mmlu=0.2), *accuracies(GPTQ, piqa=0.45)])
    for variant, own in ((WANDA, 40), (GPTQ, 90)):
        assert (found[variant].value, found[variant].reason) == (None, NOTHING_IN_COMMON)
        assert found[variant].own is not None and found[variant].own.value == pytest.approx(own)
        assert all(part.value is None for part in found[variant].parts)
    assert found[DENSE].value == 100
    (note,) = column_notes(found.values())
    assert NOTHING_IN_COMMON in note


def test_a_variant_without_any_score_leaves_the_others_theirs() -> None:
    found = column([*accuracies(DENSE, **ALL), *accuracies(WANDA, **ALL), *accuracies(GPTQ, **ALL)])
    assert found[AWQ].value is None
    assert found[AWQ].reason == "not measured"
    assert all(found[one].value == 100 and found[one].own is None for one in (DENSE, WANDA, GPTQ))


def test_the_dense_model_is_100_over_any_values_and_takes_none_away() -> None:
    found = column([*accuracies(DENSE, mmlu=0.5, piqa=0.5), *accuracies(WANDA, piqa=0.4), *accuracies(GPTQ, piqa=0.3)])
    assert [found[one].own for one in found] == [None] * 4
    assert found[DENSE].coverage.values == 2
    assert not column_notes(found.values())


def test_what_cannot_be_compared_with_dense_is_not_common_to_all() -> None:
    values = [
        *accuracies(DENSE, mmlu=0.5, piqa=0.5),
        *accuracies(WANDA, mmlu=0.4, piqa=0.4),
        *accuracies(GPTQ, mmlu=0.3),
        value(GPTQ, PLACES["piqa"], 0.5).model_copy(update={"protocol": "p first 50"}),
    ]
    assert {term.place.name for term in column(values)[WANDA].counted} == {"mmlu"}


def test_the_cost_of_compressing_rests_on_common_values_too() -> None:
    training = expect(Track.TRAINING_CONSUMPTION, ["tiny"])
    seconds, memory = training.places
    values = [
        Value(place=place, variant=variant, value=measured, higher_is_better=False)
        for place, variant, measured in (
            (seconds, WANDA, 10.0),
            (seconds, GPTQ, 40.0),
            (memory, GPTQ, 100.0),
        )
    ]
    wanda, gptq = score_all([training], Values(values), variants=(WANDA, GPTQ))
    assert (wanda.value, gptq.value) == (400, 100)
    assert wanda.own is None
    assert gptq.own is not None and gptq.own.value == 100


@given(
    had=st.dictionaries(st.sampled_from(COMPRESSED), st.sets(st.sampled_from(sorted(PLACES)), min_size=1)),
    seed=st.integers(0, 2**32),
    mode=st.sampled_from(Mode),
)
def test_all_scores_of_a_column_are_those_of_the_same_values(had, seed, mode) -> None:
    flips = iter(range(seed, seed + 1000))
    values = [value(DENSE, place, 0.5) for place in PERFORMANCE.places]
    for variant, names in had.items():
        values += [value(variant, PLACES[name], 0.1 + next(flips) * 37 % 100 / 100) for name in sorted(names)]
    common = set.intersection(*had.values()) if had else set()
    kept = Values(one for one in values if one.place.name in common)
    for variant, names in had.items():
        found = column(values, mode=mode)[variant]
        assert found.value == score(PERFORMANCE, variant, kept, mode=mode).value
        assert found.parts == score(PERFORMANCE, variant, kept, mode=mode).parts
        alone = score(PERFORMANCE, variant, Values(values), mode=mode)
        assert (found.own is None) == (names == common)
        assert (found.own or found).value == alone.value
        assert {place.name for place in found.places} == common


def test_without_a_value_in_common_there_is_no_rank(tmp_path) -> None:
    maker = RunMaker(tmp_path)
    for task, variant in (("arc_easy", WANDA), ("piqa", GPTQ)):
        maker.add(DENSE, task, coin_flips(0.7, 40, 1))
        maker.add(variant, task, coin_flips(0.6, 40, 2))
    document = score_run(maker.evidence(Resampling(resamples=200)))
    assert not document.ranks
    found = document.score(WANDA, Track.PERFORMANCE)
    assert (found.value, found.interval, found.interval_reason) == (None, None, None)
    assert found.own.interval.holds(found.own.value)
