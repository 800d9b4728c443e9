"""Plans: every chain once, no batch too large, and in every layout each token sees exactly what stands before it."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.evaluation.prepared import TokenRequest
from harness.evaluation.scorer import Scorer, engine
from harness.evaluation.scorer.chains import ModelLimits, make_chains
from harness.evaluation.scorer.layout import lay_out
from harness.evaluation.scorer.planning import PlanLimits, plan_batches
from harness.models.loading import LoadedModel
from tests.evaluation.scorer_reference import assert_answers_equal, load_small, silent
from tests.support.small_checkpoints import small_model

LIMITS = ModelLimits(context_length=40, vocabulary=264)


@st.composite
def tries(draw: st.DrawFn) -> list[TokenRequest]:
    """Requests over few distinct tokens, many of which go on where another one is."""
    token = st.integers(0, 2)
    sequences: list[tuple[int, ...]] = [()]
    requests = []
    for _ in range(draw(st.integers(1, 25))):
        before = draw(st.sampled_from(sequences))
        context = before + tuple(draw(st.lists(token, min_size=0 if before else 1, max_size=12)))
        continuation = tuple(draw(st.lists(token, min_size=1, max_size=6)))
        sequences += [context, context + continuation]
        requests.append(TokenRequest(context, continuation))
    return requests


limits = st.builds(
    PlanLimits,
    token_budget=st.integers(1, 200),
    row_tokens=st.integers(1, 60),
    longest=st.integers(1, 200),
    pass_tokens=st.integers(0, 300),
    share=st.booleans(),
)


@given(tries(), limits)
def test_a_plan_holds_every_chain_once_in_batches_of_the_budget(requests: list[TokenRequest], most: PlanLimits) -> None:
    chains = make_chains(requests, LIMITS)
    batches = plan_batches(chains, most)
    planned = [chain.tokens.tolist() for batch in batches for chain in batch.chains]
    assert sorted(planned) == [chain.tokens.tolist() for chain in chains]
    for batch in batches:
        assert len(batch.rows) == 1 or len(batch.rows) * batch.width <= most.token_budget
        assert len(batch.trunk) <= most.longest
        assert all(len(row.chains) == 1 or row.tokens <= max(most.longest, 1) for row in batch.rows)
        assert most.share or not batch.is_tree


@given(tries(), limits)
def test_each_token_of_a_layout_sees_its_own_beginning_and_nothing_else(
    requests: list[TokenRequest], most: PlanLimits
) -> None:
    chains = make_chains(requests, LIMITS)
    batches = plan_batches(chains, most)
    assert sum(len(batch.chains) for batch in batches) == len(chains) > 0
    for batch in batches:
        layout = lay_out(batch, width=batch.width + 3)
        trunk = batch.trunk.tolist()
        seen_before = [
            [
                trunk + [int(layout.tokens[row, key]) for key in range(query + 1) if query < layout.ends[row, key]]
                for query in range(batch.width + 3)
            ]
            for row in range(len(batch.rows))
        ]
        for row, tree in enumerate(batch.rows):
            depths = [len(seen) - 1 for seen in seen_before[row]]
            assert depths == layout.depths[row].tolist()
            expected = {tuple(chain.tokens[: depth + 1]) for chain in tree.chains for depth in range(len(chain.tokens))}
            found = {tuple(seen) for seen in seen_before[row][: tree.tokens]}
            assert found == {beginning for beginning in expected if len(beginning) > len(trunk)}
            assert len(found) == tree.tokens
        flat = [seen for row in seen_before for seen in row]
        predicted = [
            (tuple(flat[layout.reads[read]]), int(target))
            for read, target in zip(layout.read_of, layout.targets, strict=True)
        ]
        wanted = [
            (tuple(chain.tokens[: reading.start + place + 1].tolist()), int(target))
            for tree in batch.rows
            for chain in tree.chains
            for reading in chain.readings
            for place, target in enumerate(reading.continuation)
        ]
        assert [predicted[place] for place in layout.order] == wanted
        assert (np.diff(layout.read_of) >= 0).all()


@pytest.fixture(scope="module", params=["llama", "opt"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    model: Any = small_model(request.param)
    folder: Path = tmp_path_factory.mktemp("scorer") / request.param
    return load_small(folder, model)


@settings(max_examples=25)
@given(requests=tries(), token_budget=st.integers(1, 300), row_tokens=st.sampled_from([1, 4, 256]))
def test_any_trie_of_requests_is_answered_as_by_a_plain_loop(
    loaded: LoadedModel, requests: list[TokenRequest], token_budget: int, row_tokens: int
) -> None:
    scorer = Scorer(loaded, token_budget=token_budget, report=silent)
    with mock.patch.object(engine, "_ROW_TOKENS", row_tokens):
        assert_answers_equal(loaded, requests, dict(scorer.score(requests)))


def test_a_long_beginning_of_many_chains_is_kept_and_the_longer_one_wins() -> None:
    """Two subjects after one system prompt: each subject's own, longer beginning saves more."""
    system = tuple(range(30))
    subjects = [system + tuple(range(100 * number, 100 * number + 60)) for number in (1, 2)]
    requests = [TokenRequest((*subject, *(item, 7) * 5), (1,)) for subject in subjects for item in range(200, 260)]
    batches = plan_batches(make_chains(requests, ModelLimits(500, 1000)), PlanLimits(512, 64, 500, 256))
    assert {tuple(batch.trunk.tolist()) for batch in batches} == set(subjects)


def test_a_few_items_are_not_worth_a_pass_for_their_beginning() -> None:
    requests = [TokenRequest((*range(60), item), (1,)) for item in range(5)]
    (batch,) = plan_batches(make_chains(requests, ModelLimits(500, 1000)), PlanLimits(512, 256, 500, 256))
    assert len(batch.trunk) == 0
    assert batch.width == 65


def test_chains_that_share_most_of_their_tokens_stay_together_beyond_the_usual_row() -> None:
    requests = [TokenRequest(tuple(range(300)), (choice, choice)) for choice in range(4)]
    (batch,) = plan_batches(make_chains(requests, ModelLimits(500, 1000)), PlanLimits(2048, 128, 2048, 256))
    assert [row.tokens for row in batch.rows] == [304]
