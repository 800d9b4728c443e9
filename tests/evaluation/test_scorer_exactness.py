"""The scorer's answers are those of a plain loop, whatever is shared, packed, padded and cut."""

from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, Qwen2Config

from harness.architectures.blocks import decoder_blocks
from harness.architectures.pruned_shapes import note_heads, resize
from harness.contract import AttentionRounding, Device, Dtype, Quantization
from harness.evaluation.engine import EngineJob
from harness.evaluation.likelihood import TokenLikelihood
from harness.evaluation.pieces import Piece
from harness.evaluation.prepared import TokenRequest
from harness.evaluation.reference import LocalEngine
from harness.evaluation.scorer import Scorer, engine
from harness.evaluation.scorer.chains import ModelLimits, make_chains
from harness.evaluation.scorer.planning import PlanLimits, plan_batches
from harness.models.loading import LoadedModel, load_model
from harness.quantization.activations import attach
from tests.evaluation.scorer_reference import assert_answers_equal, load_small, silent, tokens
from tests.support.small_checkpoints import publish_checkpoint, small_model
from tests.support.zoo import ZOO, zoo_checkpoint


def examination(random: Random, *, preamble: int, items: int, vocabulary: int = 256) -> list[TokenRequest]:
    """Questions after one preamble, each with four letters and two longer answers."""
    shown = tokens(random, preamble, vocabulary)
    requests = []
    for _ in range(items):
        context = shown + tokens(random, random.randrange(8, 30), vocabulary)
        requests += [TokenRequest(context, (letter,)) for letter in (65, 66, 67, 68)]
        requests += [TokenRequest(context, tokens(random, random.randrange(2, 9), vocabulary)) for _ in range(2)]
    return requests


def everything(random: Random, *, context_length: int, vocabulary: int = 256) -> list[TokenRequest]:
    """What tasks ask for: few-shot letters, choices, equal endings, a whole segment, too long a context."""
    ending = tokens(random, 6, vocabulary)
    segment = tokens(random, context_length - 1, vocabulary)
    story = tokens(random, 30, vocabulary)
    return [
        *examination(random, preamble=context_length // 2, items=24, vocabulary=vocabulary),
        *(TokenRequest(tokens(random, 12, vocabulary), ending) for _ in range(3)),
        *(TokenRequest(story, tokens(random, length, vocabulary)) for length in (1, 2, 20)),
        TokenRequest(story[:1], story[1:]),
        TokenRequest(story[:20], story[20:]),
        TokenRequest(segment[:1], segment[1:]),
        TokenRequest(tokens(random, context_length + 40, vocabulary), ending),
        TokenRequest(tokens(random, 9, vocabulary), tokens(random, context_length, vocabulary)),
    ]


def keeps_a_trunk(requests: list[TokenRequest], limits: ModelLimits) -> bool:
    batches = plan_batches(make_chains(requests, limits), PlanLimits(1024, engine._ROW_TOKENS, 4096, 256))
    return any(len(batch.trunk) for batch in batches)


@pytest.mark.parametrize("name", ZOO)
def test_every_family_of_the_zoo_is_answered_as_by_a_plain_loop(name: str, tmp_path: Path) -> None:
    zoo_checkpoint(name, tmp_path / name)
    loaded = load_model(tmp_path / name, Device(threads=1), Dtype.FLOAT32)
    requests = everything(Random(name), context_length=512, vocabulary=1024)
    assert keeps_a_trunk(requests, ModelLimits(512, 1024))
    scorer = Scorer(loaded, report=silent)
    assert_answers_equal(loaded, requests, dict(scorer.score(requests)))
    assert scorer.computed_tokens < scorer.work.requested_tokens / 8


@pytest.mark.parametrize("token_budget", [1, 40, 300, 5000])
def test_the_token_budget_changes_no_answer(token_budget: int, tmp_path: Path) -> None:
    loaded = load_small(tmp_path / "model", small_model("llama"))
    requests = everything(Random(7), context_length=128)
    assert_answers_equal(
        loaded, requests, dict(Scorer(loaded, token_budget=token_budget, report=silent).score(requests))
    )


@pytest.mark.parametrize("family", ["opt-projected", "mistral"])
def test_what_else_is_in_the_call_changes_no_answer(family: str, tmp_path: Path) -> None:
    loaded = load_small(tmp_path / "model", small_model(family))
    requests = examination(Random(3), preamble=60, items=20)
    scorer = Scorer(loaded, report=silent)
    together = dict(scorer.score(requests))
    alone = [dict(scorer.score([request]))[0] for request in requests]
    assert [together[number].log_likelihood for number in range(len(requests))] == pytest.approx(
        [answer.log_likelihood for answer in alone], rel=1e-5
    )
    assert dict(scorer.score(requests[::-1]))[0].log_likelihood == pytest.approx(alone[-1].log_likelihood, rel=1e-5)


WINDOWED = {
    "vocab_size": 264, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "sliding_window": 10, "initializer_range": 0.3,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**WINDOWED, use_sliding_window=True),
        Gemma3TextConfig(**WINDOWED, head_dim=16),
        Gemma3TextConfig(**WINDOWED | {"layer_types": ["sliding_attention"] * 3}, head_dim=16),
        Gemma3TextConfig(**WINDOWED | {"layer_types": ["full_attention"] * 3}, head_dim=16),
    ],
    ids=["qwen2", "gemma3", "gemma3-sliding", "gemma3-full"],
)
def test_layers_with_and_without_a_sliding_window_each_see_what_they_should(tmp_path: Path, config: Any) -> None:
    torch.manual_seed(0)
    loaded = load_small(tmp_path / "model", AutoModelForCausalLM.from_config(config))
    requests = everything(Random(1), context_length=128)
    scorer = Scorer(loaded, report=silent)
    assert_answers_equal(loaded, requests, dict(scorer.score(requests)))
    assert scorer.computed_tokens < scorer.work.requested_tokens / 2


def test_a_pruned_model_whose_layers_differ_in_width_is_answered(tmp_path: Path) -> None:
    loaded = load_small(tmp_path / "model", small_model("llama"))
    first, _ = decoder_blocks(loaded.model)
    head = first.attention.head_dim
    wanted: list[dict[str, Any]] = [{"rows": head}, {"rows": head}, {"rows": 2 * head}]
    for linear, shape in zip(first.groups[0].linears, wanted, strict=True):
        resize(linear.module, **shape)
    resize(first.groups[1].linears[0].module, columns=2 * head)
    for linear in first.groups[2].linears:
        resize(linear.module, rows=20)
    resize(first.groups[3].linears[0].module, columns=20)
    note_heads(first, 2)
    torch.manual_seed(2)
    for linear in first.linears:
        torch.nn.init.normal_(linear.module.weight, std=0.3)
    requests = everything(Random(2), context_length=128)
    assert_answers_equal(loaded, requests, dict(Scorer(loaded, report=silent).score(requests)))


@pytest.mark.parametrize("rounding", AttentionRounding)
def test_activations_quantized_token_by_token_are_answered(tmp_path: Path, rounding: AttentionRounding) -> None:
    """A value beside a rounding threshold may fall to its other side, so a few answers may differ a little more."""
    loaded = load_small(tmp_path / "model", small_model("llama"))
    quantization = Quantization(weight_bits=8, activation_bits=8, attention_bits=8, attention_rounding=rounding)
    attach(decoder_blocks(loaded.model), quantization)
    requests = examination(Random(4), preamble=50, items=25)
    assert_answers_equal(loaded, requests, dict(Scorer(loaded, report=silent).score(requests)), relative=2e-2)


def test_a_family_that_was_not_tested_is_answered_without_sharing_and_that_is_said(tmp_path: Path) -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=264, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, original_max_position_embeddings=128, pad_token_id=257,
        initializer_range=0.3,
    )  # fmt: skip
    loaded = load_small(tmp_path / "model", Phi3ForCausalLM(config))
    remarks: list[str] = []
    requests = everything(Random(5), context_length=128)
    assert_answers_equal(loaded, requests, dict(Scorer(loaded, report=remarks.append).score(requests)))
    assert any("model type 'phi3' was not tested with shared beginnings" in remark for remark in remarks)


def test_a_rotary_embedding_that_depends_on_the_batch_is_not_mixed_with_others(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=264, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=128, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    )  # fmt: skip
    remarks: list[str] = []
    loaded = load_small(tmp_path / "model", LlamaForCausalLM(config))
    requests = examination(Random(6), preamble=20, items=3)
    assert_answers_equal(loaded, requests, dict(Scorer(loaded, report=remarks.append).score(requests)))
    assert (
        "one sequence at a time: the rotary embedding 'dynamic' depends on the longest sequence of a batch" in remarks
    )


def test_bfloat16_differs_from_the_plain_loop_by_rounding_only(tmp_path: Path) -> None:
    zoo_checkpoint("llama-gqa-small", tmp_path / "model")
    loaded: LoadedModel = load_model(tmp_path / "model", Device(threads=1), Dtype.BFLOAT16)
    exact: LoadedModel = load_model(tmp_path / "model", Device(threads=1), Dtype.FLOAT32)
    requests = examination(Random(8), preamble=200, items=20, vocabulary=1024)
    found, expected = (dict(Scorer(one, report=silent).score(requests)) for one in (loaded, exact))
    for number, answer in expected.items():
        assert found[number].log_likelihood == pytest.approx(answer.log_likelihood, rel=2e-2, abs=5e-2)


def test_likelihoods_are_computed_in_float32_whatever_the_model_computes_in(tmp_path: Path) -> None:
    """A softmax in bfloat16 would be off by up to 0.04 nats a token."""
    zoo_checkpoint("llama-gqa-small", tmp_path / "model")
    loaded = load_model(tmp_path / "model", Device(threads=1), Dtype.BFLOAT16)
    likelihood = TokenLikelihood(loaded)
    hidden = likelihood.hidden(torch.arange(64)[None])[0]
    targets = np.arange(64, dtype=np.int64)[::-1].copy()
    found, _ = likelihood.of(hidden, targets)
    with torch.no_grad():
        logits = loaded.model.get_output_embeddings()(hidden)
    expected = torch.log_softmax(logits.double(), dim=-1)[torch.arange(64), torch.from_numpy(targets)]
    assert (logits.dtype, found.dtype) == (torch.bfloat16, torch.float32)
    assert (found.double() - expected).abs().max() < 1e-5


def test_padding_is_counted_apart_from_what_was_computed(tmp_path: Path) -> None:
    folder = publish_checkpoint(tmp_path / "model", small_model("llama"))
    with mock.patch.object(engine, "_ROW_TOKENS", 1):
        local = LocalEngine(EngineJob(folder, Device(threads=1), Dtype.FLOAT32, None), silent)
        requests = (TokenRequest(tuple(range(9)), (1,)), TokenRequest((100, 101, 102), (1,)))
        assert len(list(local.answers([Piece((0, 1), tuple((one,) for one in requests))]))) > 0
    assert (local.tokens.asked, local.tokens.computed, local.tokens.padding) == (9 + 3, 9 + 3, 6)
