"""Perplexity: the protocol of the pruning papers, compared with a plain loop over whole segments."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import Recorder, byte_tokenizer, publish_checkpoint, small_model

from harness.contract import Device, Reason
from harness.errors import BadCheckpoint, MissingData, Unsupported
from harness.evaluation import likelihood
from harness.evaluation.catalog import PerplexityTask
from harness.evaluation.outcomes import Scored, write_items
from harness.evaluation.perplexity import cut_segments, score_perplexity
from harness.models.loading import load_model

ROWS = [{"text": ""}, {"text": " = Rain = \n"}, {"text": ""}] + [
    {"text": f" It rained on day {day} , and the {'small ' * (day % 3)}river rose .\n"} for day in range(9)
]
LENGTH = 48


def task(length: int = LENGTH) -> PerplexityTask:
    return PerplexityTask(
        kind="perplexity", name="rain", protocol=f"ppl/rain-{length}", dataset="rain", split="test",
        metric="perplexity", sequence_length=length,
    )  # fmt: skip


def score(
    tmp_path: Path, model: Any, *, length: int = LENGTH, add_beginning: bool = False, batch_size: int = 4,
    limit: int | None = None, recorder: Recorder | None = None, rows: list[dict[str, Any]] = ROWS,
) -> Scored:  # fmt: skip
    folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
    loaded = load_model(publish_checkpoint(folder, model, add_beginning=add_beginning), Device(), None)
    reporter = (recorder or Recorder()).reporter
    return score_perplexity(
        task(length), rows, loaded, limit=limit, batch_size=batch_size,
        done=lambda done, total: reporter.progress(done, total, "item"),
    )  # fmt: skip


def plain_perplexity(model: Any, tokens: list[int], length: int) -> float:
    """The published recipe: mean loss of a segment times its length, summed, over all tokens, exponential."""
    segments = len(tokens) // length
    total = 0.0
    for number in range(segments):
        segment = torch.tensor([tokens[number * length : (number + 1) * length]])
        with torch.no_grad():
            logits = model(segment).logits.double()
        total += length * float(torch.nn.functional.cross_entropy(logits[0, :-1], segment[0, 1:]))
    return math.exp(total / (segments * length))


@pytest.mark.parametrize("family", ["llama", "mistral", "opt", "opt-projected", "qwen2", "qwen3"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_perplexity_equals_a_plain_loop(tmp_path: Path, family: str, batch_size: int) -> None:
    model = small_model(family)
    scored = score(tmp_path, model, batch_size=batch_size)
    tokens = byte_tokenizer().encode("\n\n".join(row["text"] for row in ROWS))
    assert scored.metrics["perplexity"] == pytest.approx(plain_perplexity(model, tokens, LENGTH), rel=1e-5)
    assert scored.available == scored.scored == len(tokens) // LENGTH


def test_a_beginning_token_stands_once_at_the_very_start(tmp_path: Path) -> None:
    model = small_model("llama")
    scored = score(tmp_path, model, add_beginning=True)
    text = byte_tokenizer().encode("\n\n".join(row["text"] for row in ROWS))
    assert scored.metrics["perplexity"] == pytest.approx(plain_perplexity(model, [256, *text], LENGTH), rel=1e-5)


def test_logits_taken_in_pieces_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("llama")
    whole = score(tmp_path, model)
    monkeypatch.setattr(likelihood, "_LOGITS_BYTES", 4 * 264 * 7)
    pieces = score(tmp_path, model)
    assert pieces.metrics["perplexity"] == pytest.approx(whole.metrics["perplexity"], rel=1e-6)


def test_a_limit_takes_the_first_segments(tmp_path: Path) -> None:
    model, recorder = small_model("llama"), Recorder()
    scored = score(tmp_path, model, limit=3, batch_size=2, recorder=recorder)
    everything = score(tmp_path, model)
    assert scored.scored == len(scored.items) == 3
    assert scored.available == everything.available > 3
    for kept, full in zip(scored.items, everything.items[:3], strict=True):
        assert kept.negative_log_likelihood == pytest.approx(full.negative_log_likelihood, rel=1e-5)
        assert kept.tokens == LENGTH - 1
    assert [event["done"] for event in recorder.events("progress")] == [0, 2, 3]


def test_the_kept_segments_give_the_perplexity_again(tmp_path: Path) -> None:
    scored = score(tmp_path, small_model("llama"))
    lines = gzip.decompress((tmp_path / write_items(scored.items, tmp_path)).read_bytes()).decode().splitlines()
    losses = [item["negative_log_likelihood"] / item["tokens"] for item in map(json.loads, lines)]
    assert math.exp(sum(losses) / len(losses)) == pytest.approx(scored.metrics["perplexity"], rel=1e-12)


def test_the_remainder_of_the_text_is_dropped() -> None:
    assert cut_segments(torch.arange(10), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut_segments(torch.arange(3), 4).shape == (0, 4)


def test_one_segment_has_no_standard_error(tmp_path: Path) -> None:
    assert "perplexity_stderr" not in score(tmp_path, small_model("llama"), limit=1).metrics
    assert score(tmp_path, small_model("llama"), limit=2).metrics["perplexity_stderr"] > 0


def test_a_segment_longer_than_the_context_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="segments of 129 tokens, the model takes 128") as refusal:
        score(tmp_path, small_model("llama"), length=129)
    assert refusal.value.reason is Reason.SHAPE


def test_a_text_shorter_than_one_segment_is_missing_data(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="shorter than one segment of 48 tokens"):
        score(tmp_path, small_model("llama"), rows=[{"text": "short"}])


def test_a_broken_segment_is_excluded_and_counted(tmp_path: Path) -> None:
    model = small_model("llama")
    model.get_input_embeddings().weight.data[byte_tokenizer().encode("5")] = float("nan")
    scored = score(tmp_path, model)
    broken = [item.index for item in scored.items if item.negative_log_likelihood is None]
    assert scored.excluded == {"log_likelihood_not_finite": len(broken)}
    assert 0 < len(broken) < len(scored.items) == scored.scored + len(broken)
    assert math.isfinite(scored.metrics["perplexity"])


def test_a_model_that_gives_only_nan_is_an_error_and_no_score(tmp_path: Path) -> None:
    model = small_model("llama")
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(BadCheckpoint, match="no finite likelihood"):
        score(tmp_path, model)


def test_a_model_that_scales_its_logits_is_unsupported(tmp_path: Path) -> None:
    from dataclasses import replace

    from transformers import GraniteConfig, GraniteForCausalLM

    loaded = load_model(publish_checkpoint(tmp_path / "model", small_model("llama")), Device(), None)
    scaling = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=264, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
            logits_scaling=8.0,
        )
    )  # fmt: skip
    with pytest.raises(Unsupported, match="changes its logits") as refusal:
        likelihood.TokenLikelihood(replace(loaded, model=scaling.eval()))
    assert refusal.value.reason is Reason.ARCHITECTURE
