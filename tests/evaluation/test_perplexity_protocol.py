"""Perplexity over segments: the protocol of the pruning papers, compared with a plain loop over whole segments."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.contract import Reason
from harness.contract.tasks import PerplexityTask, load_tasks
from harness.errors import BadCheckpoint, BadRequest, MissingData, Unsupported
from harness.evaluation.definitions import ModelFacts, prepare
from harness.evaluation.definitions.segments import PreparedSegments, cut_segments
from harness.evaluation.prepared import Answer, Summary
from harness.evaluation.tasks import find_task
from tests.support.plain_scoring import score_plainly
from tests.support.small_checkpoints import BEGINNING, byte_tokenizer, small_model

ROWS = [{"text": ""}, {"text": " = Rain = \n"}, {"text": ""}] + [
    {"text": f" It rained on day {day} , and the {'small ' * (day % 3)}river rose .\n"} for day in range(9)
]
LENGTH = 48


def segments(
    *, length: int | None = LENGTH, add_beginning: bool = False, limit: int | None = None, context_length: int = 128,
    rows: list[dict[str, Any]] = ROWS, beginning: str = "text",
) -> PreparedSegments:  # fmt: skip
    task = PerplexityTask(
        kind="perplexity", name="rain", protocol=f"ppl/rain-{length}", dataset="rain", split="test",
        metric="perplexity", track=1, sequence_length=length, beginning=beginning,
    )  # fmt: skip
    tokenizer = byte_tokenizer(add_beginning=add_beginning)
    prepared = prepare(task, {"test": rows}, ModelFacts(tokenizer, context_length, len(tokenizer)), limit=limit)
    assert isinstance(prepared, PreparedSegments)
    return prepared


def summary_of(losses: list[float], prepared: PreparedSegments) -> Summary:
    items = [prepared.judge(index, [Answer(-loss, greedy=False)]) for index, loss in enumerate(losses)]
    return prepared.summarise(items)


def plain_perplexity(model: Any, tokens: list[int], length: int) -> float:
    """The published recipe: mean loss of a segment times its length, summed, over all tokens, exponential."""
    count = len(tokens) // length
    total = 0.0
    for number in range(count):
        segment = torch.tensor([tokens[number * length : (number + 1) * length]])
        with torch.no_grad():
            logits = model(segment).logits.double()
        total += length * float(torch.nn.functional.cross_entropy(logits[0, :-1], segment[0, 1:]))
    return math.exp(total / (count * length))


@pytest.mark.parametrize("add_beginning", [False, True])
def test_perplexity_equals_a_plain_loop(add_beginning: bool) -> None:
    model = small_model("llama")
    prepared = segments(add_beginning=add_beginning)
    _, summary = score_plainly(prepared, model)
    tokens = [256] * add_beginning + byte_tokenizer().encode("\n\n".join(row["text"] for row in ROWS))
    assert summary.metrics["perplexity"] == pytest.approx(plain_perplexity(model, tokens, LENGTH), rel=1e-6)
    assert prepared.available == summary.scored == len(tokens) // LENGTH


def test_a_beginning_token_stands_once_at_the_very_start() -> None:
    prepared = segments(add_beginning=True)
    tokens = [token for index in range(len(prepared)) for request in prepared.requests(index)
              for token in request.context + request.continuation]  # fmt: skip
    assert [place for place, token in enumerate(tokens) if token == 256] == [0]
    assert prepared.details.beginning_token == BEGINNING


def test_a_segment_can_have_its_own_beginning_token() -> None:
    prepared, plain = segments(add_beginning=True, beginning="segment"), segments()
    requests = [request for index in range(len(prepared)) for request in prepared.requests(index)]
    assert {request.context for request in requests} == {(256,)}
    assert {len(request.continuation) for request in requests} == {LENGTH - 1}
    text = [token for request in requests for token in request.continuation]
    (first,) = plain.requests(0)
    assert text[:LENGTH] == [*first.context, *first.continuation]
    assert prepared.available == len(byte_tokenizer().encode("\n\n".join(row["text"] for row in ROWS))) // (LENGTH - 1)
    assert prepared.judge(0, [Answer(-5.0, greedy=False)]).tokens == LENGTH - 1
    assert prepared.details.sequence_length == LENGTH
    assert prepared.notes == ()


def test_perplexity_with_a_beginning_token_before_each_segment_equals_a_plain_loop() -> None:
    model = small_model("llama")
    _, summary = score_plainly(segments(add_beginning=True, beginning="segment"), model)
    tokens = byte_tokenizer().encode("\n\n".join(row["text"] for row in ROWS))
    cut = [tokens[start : start + LENGTH - 1] for start in range(0, len(tokens) - LENGTH + 2, LENGTH - 1)]
    with_beginning = [token for segment in cut for token in (256, *segment)]
    assert summary.metrics["perplexity"] == pytest.approx(plain_perplexity(model, with_beginning, LENGTH), rel=1e-6)


def test_segments_without_the_beginning_token_that_the_tokenizer_adds_say_so() -> None:
    (note,) = segments(add_beginning=True).notes
    assert note.startswith(f"segments after the first have no {BEGINNING!r} before them")
    assert f"ppl/rain-{LENGTH}-bos" in note
    assert segments().notes == ()


def test_segments_cannot_begin_with_what_the_tokenizer_does_not_add() -> None:
    with pytest.raises(Unsupported, match="the tokenizer puts none before a text") as refused:
        segments(beginning="segment")
    assert refused.value.reason is Reason.TASK


def test_each_task_with_segments_has_one_with_beginning_tokens() -> None:
    tasks = {name: task for name, task in load_tasks().items() if isinstance(task, PerplexityTask)}
    plain = {name for name, task in tasks.items() if task.beginning == "text"}
    assert {f"{name}-bos" for name in plain} == tasks.keys() - plain
    for name in plain:
        with_beginning = tasks[f"{name}-bos"]
        assert with_beginning.stands_for == name
        assert with_beginning.protocol == f"{tasks[name].protocol}-bos"
        assert with_beginning.sequence_length == tasks[name].sequence_length


def test_the_segments_are_the_whole_text_but_for_the_remainder() -> None:
    prepared = segments()
    text = "\n\n".join(row["text"] for row in ROWS).encode()
    kept = b"".join(
        byte_tokenizer().decode(request.context + request.continuation).encode()
        for index in range(len(prepared))
        for request in prepared.requests(index)
    )
    assert kept == text[: len(text) // LENGTH * LENGTH]


def test_a_text_that_rows_share_is_read_once_and_a_blank_one_not_at_all() -> None:
    task = find_task("sciq-support").model_copy(update={"sequence_length": 4})
    shared = ("rain falls", "", "it is wet", "rain falls", " ")
    rows = [{"support": text, "text": "another field"} for text in shared]
    tokenizer = byte_tokenizer()
    prepared = prepare(task, {"validation": rows}, ModelFacts(tokenizer, 8, len(tokenizer)), limit=None)
    (first, *rest) = [prepared.requests(index)[0] for index in range(len(prepared))]
    read = [*first.context, *first.continuation]
    for one in rest:
        read += [*one.context, *one.continuation]
    assert tokenizer.decode(read) == "rain falls\n\nit is wet"[:20]
    with pytest.raises(BadRequest, match="row 1 of sciq/validation has no text in its field 'support'"):
        prepare(task, {"validation": [rows[0], {"text": "x"}]}, ModelFacts(tokenizer, 8, len(tokenizer)), limit=None)


def test_every_token_of_a_segment_but_the_first_is_predicted() -> None:
    prepared = segments()
    (request,) = prepared.requests(2)
    assert (len(request.context), len(request.continuation)) == (1, LENGTH - 1)
    assert prepared.judge(2, [Answer(-5.0, greedy=False)]).tokens == LENGTH - 1


def test_a_limit_takes_the_first_segments() -> None:
    some, every = segments(limit=3), segments()
    assert (len(some), some.available) == (3, len(every))
    assert [some.requests(index) for index in range(3)] == [every.requests(index) for index in range(3)]


def test_a_segment_can_be_as_long_as_the_models_context() -> None:
    prepared = segments(length=None, context_length=96)
    (request,) = prepared.requests(0)
    assert len(request.context) + len(request.continuation) == 96
    assert prepared.details.sequence_length == 96
    task = find_task("wikitext2-maxctx")
    assert (task.protocol, getattr(task, "sequence_length", 0)) == ("ppl/wikitext2-maxctx", None)


def test_the_remainder_of_the_text_is_dropped() -> None:
    assert cut_segments(np.arange(10, dtype=np.int32), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut_segments(np.arange(3, dtype=np.int32), 4).shape == (0, 4)


def test_perplexity_is_the_exponential_of_the_mean_loss_over_segments() -> None:
    prepared = segments(limit=2)
    summary = summary_of([2.0 * (LENGTH - 1), 3.0 * (LENGTH - 1)], prepared)
    assert summary.metrics["nats_per_token"] == pytest.approx(2.5)
    assert summary.metrics["perplexity"] == pytest.approx(math.exp(2.5))
    assert summary.metrics["perplexity_stderr"] == pytest.approx(math.exp(2.5) * 0.5)


def test_one_segment_has_no_standard_error() -> None:
    assert "perplexity_stderr" not in summary_of([90.0], segments(limit=1)).metrics


def test_a_segment_longer_than_the_context_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="segments of 129 tokens, the model takes 128") as refusal:
        segments(length=129)
    assert refusal.value.reason is Reason.SHAPE


def test_a_text_shorter_than_one_segment_is_missing_data() -> None:
    with pytest.raises(MissingData, match="shorter than one segment of 48 tokens: it has 5"):
        segments(rows=[{"text": "short"}])


def test_a_row_without_text_is_named() -> None:
    with pytest.raises(BadRequest, match="row 1 of rain/test has no text"):
        segments(rows=[{"text": "rain"}, {"sentence": "rain"}])


def test_a_broken_segment_is_excluded_and_counted() -> None:
    prepared = segments(limit=3)
    summary = summary_of([90.0, math.nan, 94.0], prepared)
    assert (summary.scored, summary.excluded) == (2, {"log_likelihood_not_finite": 1})
    assert summary.metrics["nats_per_token"] == pytest.approx(92.0 / (LENGTH - 1))


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e6])
def test_a_model_without_a_finite_likelihood_is_an_error_and_no_score(loss: float) -> None:
    with pytest.raises(BadCheckpoint, match="no finite likelihood"):
        summary_of([loss, loss], segments(limit=2))


def test_the_kept_segments_give_the_perplexity_again() -> None:
    items, summary = score_plainly(segments(), small_model("llama"))
    losses = [item.negative_log_likelihood / item.tokens for item in items]
    assert math.exp(sum(losses) / len(losses)) == pytest.approx(summary.metrics["perplexity"], rel=1e-12)


def test_a_model_that_scales_its_logits_is_unsupported(tmp_path: Any) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    from harness.contract import Device
    from harness.evaluation.likelihood import TokenLikelihood
    from harness.models.loading import load_model
    from tests.support.small_checkpoints import publish_checkpoint

    loaded = load_model(publish_checkpoint(tmp_path / "model", small_model("llama")), Device(), None)
    scaling = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=264, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
            logits_scaling=8.0,
        )
    )  # fmt: skip
    with pytest.raises(Unsupported, match="changes its logits") as refusal:
        TokenLikelihood(replace(loaded, model=scaling.eval()))
    assert refusal.value.reason is Reason.ARCHITECTURE
