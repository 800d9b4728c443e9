"""What holds for the scores of any run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.evidence.value import DENSE, Value, Values, Variant
from orchestrator.score import overall
from orchestrator.score.overall import score_all
from orchestrator.tracks import Expectation, Mode, Track, expect

METHOD = Variant(method="method", setting="50%")
MODELS = ("a-1", "a-2", "b-1")
LOWER_IS_BETTER = {"wikitext2", "compress_seconds", "peak_memory_bytes", "disk_bytes", "macs"}
VALUE = st.floats(min_value=0.01, max_value=1e4)
TRACKS_WITH_DENSE = [track for track in Track if not track.is_relative]


def expectation_of(track: Track) -> Expectation:
    families = {model: model[0] for model in MODELS}
    return expect(track, MODELS, families=families, backends=["vllm", "mlc-llm"], batch_sizes=[1, 8])


def score(expectation, variant, values, mode=Mode.PAPER):
    return overall.score(expectation, variant, Values(values), mode=mode)


def of(value, new):
    """The same measurement with another outcome."""
    return value.model_copy(update={"value": new})


def make(expectation, variant, values):
    return [
        Value(place=place, variant=variant, value=value, higher_is_better=place.name not in LOWER_IS_BETTER)
        for place, value in zip(expectation.places, values, strict=True)
    ]


@st.composite
def runs(draw, tracks=tuple(Track)):
    """A track's expectation, and complete values of the dense model, a method and a rival."""
    expectation = expectation_of(draw(st.sampled_from(tracks)))
    size = len(expectation.places)
    some = st.lists(VALUE, min_size=size, max_size=size)
    rival = Variant(method="rival", setting="W4A16")
    return expectation, [entry for who in (DENSE, METHOD, rival) for entry in make(expectation, who, draw(some))]


@given(run=runs(tracks=TRACKS_WITH_DENSE), mode=st.sampled_from(Mode))
def test_the_dense_model_scores_100(run, mode):
    expectation, values = run
    result = score(expectation, DENSE, values, mode=mode)
    assert result.value == 100
    assert result.coverage.is_complete


@given(run=runs(), mode=st.sampled_from(Mode), data=st.data())
def test_the_order_of_the_values_changes_no_score(run, mode, data):
    expectation, values = run
    shuffled = data.draw(st.permutations(values))
    variants = (DENSE, METHOD)
    straight = score_all([expectation], Values(values), variants=variants, mode=mode)
    assert score_all([expectation], Values(shuffled), variants=variants, mode=mode) == straight


@given(run=runs(), data=st.data())
def test_the_order_of_the_models_changes_no_value(run, data):
    expectation, values = run
    shuffled = expectation.model_copy(update={"models": tuple(data.draw(st.permutations(MODELS)))})
    assert score(shuffled, METHOD, values).value == score(expectation, METHOD, values).value


@given(run=runs(tracks=TRACKS_WITH_DENSE), factor=st.floats(0.1, 10))
def test_a_method_better_by_a_factor_everywhere_scores_that_factor_more(run, factor):
    expectation, values = run
    scaled = [
        of(entry, entry.value * factor if entry.higher_is_better else entry.value / factor)
        for entry in values
        if entry.variant == METHOD
    ]
    rest = [entry for entry in values if entry.variant != METHOD]
    before = score(expectation, METHOD, values).value
    assert score(expectation, METHOD, rest + scaled).value == pytest.approx(factor * before)


@given(run=runs(), factor=st.floats(0.1, 10))
def test_the_unit_of_the_values_changes_no_score(run, factor):
    expectation, values = run
    rescaled = [of(entry, entry.value * factor) for entry in values]
    before = score(expectation, METHOD, values).value
    assert score(expectation, METHOD, rescaled).value == pytest.approx(before)


@given(run=runs(), mode=st.sampled_from(Mode), data=st.data(), factor=st.floats(1, 10))
def test_one_better_value_never_lowers_the_score(run, mode, data, factor):
    expectation, values = run
    index = data.draw(st.sampled_from([i for i, entry in enumerate(values) if entry.variant == METHOD]))
    entry = values[index]
    better = of(entry, entry.value * factor if entry.higher_is_better else entry.value / factor)
    improved = [*values[:index], better, *values[index + 1 :]]
    before = score(expectation, METHOD, values, mode=mode).value
    assert score(expectation, METHOD, improved, mode=mode).value >= before * (1 - 1e-12)


@given(run=runs(), kept=st.sets(st.integers(0, 10_000)))
@settings(max_examples=50)
def test_every_expected_value_is_either_counted_or_named_as_missing(run, kept):
    expectation, values = run
    some = [entry for index, entry in enumerate(values) if index in kept or entry.variant == DENSE]
    result = score(expectation, METHOD, some)
    counted = {term.place for term in result.ratios}
    missing = {value.place for value in result.coverage.missing}
    assert counted | missing == set(expectation.places)
    assert not counted & missing
    assert (result.value is None) == (not counted)
    assert all(value.reason for value in result.coverage.missing)


@given(run=runs(tracks=[Track.TRAINING_CONSUMPTION]))
def test_a_relative_score_is_never_below_100(run):
    expectation, values = run
    compressed = [entry for entry in values if entry.variant != DENSE]
    assert score(expectation, METHOD, compressed).value >= 100 * (1 - 1e-12)
