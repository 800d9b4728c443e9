"""What the scorer does with duplicates, broken models, too little memory, and requests that it has to refuse."""

import math
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from harness.contract import Reason
from harness.errors import BadCheckpoint, BadRequest, OutOfMemory, Unsupported
from harness.evaluation.prepared import TokenRequest
from harness.evaluation.scorer import Scorer, memory
from harness.models.loading import LoadedModel
from tests.evaluation.scorer_reference import assert_answers_equal, load_small, silent, tokens
from tests.support.small_checkpoints import small_model


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return load_small(tmp_path / "model", small_model("llama"))


def choices(random: Random, items: int, *, length: int = 20) -> list[TokenRequest]:
    contexts = [tokens(random, length) for _ in range(items)]
    return [TokenRequest(context, tokens(random, 4)) for context in contexts for _ in range(3)]


class ForgetfulBody:
    """Stands before a model's body, and has no memory for passes of more than `most` tokens."""

    def __init__(self, body: Any, most: int, failure: Exception) -> None:
        self._body = body
        self._failure = failure
        self.most = most
        self.failures = 0

    def __call__(self, *, input_ids: torch.Tensor, **arguments: Any) -> Any:
        if input_ids.numel() > self.most:
            self.failures += 1
            raise self._failure
        return self._body(input_ids=input_ids, **arguments)


def limit_memory(scorer: Scorer, most: int, failure: Exception) -> ForgetfulBody:
    likelihood: Any = scorer._forward._likelihood
    likelihood._body = ForgetfulBody(likelihood._body, most, failure)
    return likelihood._body


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("failure", OUT_OF_MEMORY)
def test_too_little_memory_halves_the_batch_and_is_reported(loaded: LoadedModel, failure: Exception) -> None:
    remarks: list[str] = []
    scorer = Scorer(loaded, token_budget=400, report=remarks.append)
    body = limit_memory(scorer, 150, failure)
    random = Random(0)
    requests = choices(random, 20) + [TokenRequest(context, (1,)) for context in [tokens(random, 120)] * 2]
    assert_answers_equal(loaded, requests, dict(scorer.score(requests)))
    halved = [remark for remark in remarks if "going on with at most" in remark]
    assert len(halved) == body.failures > 0


def test_a_trunk_that_does_not_fit_is_given_up(loaded: LoadedModel) -> None:
    random = Random(1)
    preamble = tokens(random, 64)
    requests = [TokenRequest(preamble + tokens(random, 30), (7,)) for _ in range(40)]
    scorer = Scorer(loaded, token_budget=1024, report=silent)
    limit_memory(scorer, 100, OUT_OF_MEMORY[0])
    assert_answers_equal(loaded, requests, dict(scorer.score(requests)))


def test_a_sequence_that_does_not_fit_alone_is_an_error(loaded: LoadedModel) -> None:
    scorer = Scorer(loaded, report=silent)
    limit_memory(scorer, 50, OUT_OF_MEMORY[0])
    with pytest.raises(OutOfMemory, match="a single sequence of 63 tokens does not fit"):
        list(scorer.score([TokenRequest(tokens(Random(2), 60), (1, 2, 3, 4)), *choices(Random(2), 4)]))


def test_another_failure_of_the_model_is_no_lack_of_memory(loaded: LoadedModel) -> None:
    scorer = Scorer(loaded, report=silent)
    limit_memory(scorer, 1, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(scorer.score(choices(Random(3), 2)))


def test_what_is_asked_twice_is_computed_once(loaded: LoadedModel) -> None:
    requests = choices(Random(4), 5)
    once, twice = (Scorer(loaded, report=silent) for _ in range(2))
    single, double = dict(once.score(requests)), dict(twice.score(requests * 2))
    assert once.computed_tokens == twice.computed_tokens
    assert [double[number] for number in range(2 * len(requests))] == [single[n] for n in range(len(requests))] * 2


def test_letters_after_one_context_take_one_position(loaded: LoadedModel) -> None:
    context = tokens(Random(5), 30)
    scorer = Scorer(loaded, report=silent)
    requests = [TokenRequest(context, (letter,)) for letter in range(65, 75)]
    assert_answers_equal(loaded, requests, dict(scorer.score(requests)))
    assert (scorer.work.computed_tokens, scorer.work.read_positions) == (30, 1)
    assert scorer.work.requested_tokens == 300


def test_a_token_without_a_finite_embedding_spoils_only_what_contains_it(loaded: LoadedModel) -> None:
    model: Any = loaded.model
    model.get_input_embeddings().weight.data[200] = math.nan
    random = Random(6)
    sound = [TokenRequest(tokens(random, 12, 200), tokens(random, 3, 200)) for _ in range(12)]
    spoilt = [TokenRequest((*tokens(random, 9, 200), 200), (1, 2)), TokenRequest((1, 2), (200, 3))]
    only_predicted = TokenRequest((1, 2, 3), (4, 200))
    requests = [*sound[:6], *spoilt, *sound[6:], only_predicted]
    answers = dict(Scorer(loaded, report=silent).score(requests))
    broken = {number for number, answer in answers.items() if not math.isfinite(answer.log_likelihood)}
    assert broken == {6, 7}
    assert not any(answers[number].greedy for number in broken)
    kept = [request for request in requests if request not in spoilt]
    found = dict(enumerate(answers[number] for number in sorted(answers.keys() - broken)))
    assert_answers_equal(loaded, kept, found)


def test_a_model_that_gives_only_nan_gives_nan_answers(loaded: LoadedModel) -> None:
    model: Any = loaded.model
    model.get_input_embeddings().weight.data.fill_(math.nan)
    answers = dict(Scorer(loaded, report=silent).score(choices(Random(7), 4)))
    assert len(answers) == 12
    assert all(math.isnan(answer.log_likelihood) for answer in answers.values())


def test_a_continuation_without_tokens_has_no_likelihood(loaded: LoadedModel) -> None:
    answers = dict(Scorer(loaded, report=silent).score([TokenRequest((1, 2), ()), TokenRequest((1, 2), (3,))]))
    assert math.isnan(answers[0].log_likelihood)
    assert math.isfinite(answers[1].log_likelihood)


def test_no_requests_have_no_answers(loaded: LoadedModel) -> None:
    assert list(Scorer(loaded, report=silent).score([])) == []


def test_a_continuation_beyond_the_models_context_is_unsupported(loaded: LoadedModel) -> None:
    with pytest.raises(Unsupported, match="a continuation has 129 tokens, the model takes 128") as refusal:
        list(Scorer(loaded, report=silent).score([TokenRequest((1,), (2,) * 129)]))
    assert refusal.value.reason is Reason.SHAPE


def test_an_empty_context_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(BadRequest, match="a request has no context"):
        list(Scorer(loaded, report=silent).score([TokenRequest((), (2,))]))


@pytest.mark.parametrize("request_", [TokenRequest((1, 264), (2,)), TokenRequest((1,), (264,))])
def test_a_token_beyond_the_embedding_is_a_bad_checkpoint(loaded: LoadedModel, request_: TokenRequest) -> None:
    with pytest.raises(BadCheckpoint, match="the tokenizer gives token 264, the model's embedding has 264 rows"):
        list(Scorer(loaded, report=silent).score([TokenRequest((1,), (2,)), request_]))


def test_a_negative_token_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(BadRequest, match="token number -1"):
        list(Scorer(loaded, report=silent).score([TokenRequest((1,), (-1,))]))


def test_the_batch_size_that_was_chosen_is_reported(loaded: LoadedModel) -> None:
    remarks: list[str] = []
    Scorer(loaded, report=remarks.append)
    assert [remark for remark in remarks if remark.startswith("batches of at most ")]
    remarks.clear()
    Scorer(loaded, token_budget=100, report=remarks.append)
    assert remarks == []


def test_logits_taken_in_pieces_change_nothing(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.evaluation import likelihood

    monkeypatch.setattr(likelihood, "_LOGITS_BYTES", 4 * 264 * 7)
    requests = choices(Random(8), 10)
    assert_answers_equal(loaded, requests, dict(Scorer(loaded, report=silent).score(requests)))


@pytest.mark.parametrize(("weights", "tokens"), [(1, 131072), (2 * 10**9, 50_000), (7 * 10**9, 16384)])
def test_a_gpus_batches_are_the_larger_the_smaller_the_model(weights: int, tokens: int) -> None:
    model = torch.nn.Linear(weights, 1, bias=False, device="meta")
    assert memory.gpu_tokens(model) == tokens
