"""The decoding loop produces what transformers' own `generate` produces, and exactly as much as asked."""

import time
from pathlib import Path

import pytest
import torch

from harness.contract import Device
from harness.models.decoding import decode, random_prompts
from harness.models.loading import LoadedModel, load_model
from tests.support.small_checkpoints import publish_checkpoint, small_model


def load(tmp_path: Path, family: str = "llama") -> LoadedModel:
    return load_model(publish_checkpoint(tmp_path / "model", small_model(family)), Device(threads=1), None)


@pytest.mark.parametrize("family", ["llama", "mistral", "opt", "qwen2", "qwen3", "gemma3"])
def test_tokens_equal_those_of_transformers_generate(tmp_path: Path, family: str) -> None:
    loaded = load(tmp_path, family)
    prompts = random_prompts(loaded, batch_size=3, tokens=10, seed=1)
    expected = loaded.model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, min_new_tokens=12, max_new_tokens=12,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert torch.equal(decode(loaded, prompts, 12).tokens, expected[:, 10:])


def test_an_end_of_sequence_token_stops_nothing(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    loaded.model.get_output_embeddings().weight.zero_()
    prompts = random_prompts(loaded, batch_size=2, tokens=4, seed=0)
    loaded.model.config.eos_token_id = 0
    assert torch.equal(decode(loaded, prompts, 7).tokens, torch.zeros(2, 7, dtype=torch.int64))


def test_prompts_depend_on_the_seed_alone(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    first = random_prompts(loaded, batch_size=4, tokens=50, seed=7)
    assert torch.equal(first, random_prompts(loaded, batch_size=4, tokens=50, seed=7))
    assert not torch.equal(first, random_prompts(loaded, batch_size=4, tokens=50, seed=8))
    assert 0 <= first.min() <= first.max() < 264
    assert len(first.unique(dim=0)) == 4


def test_prefill_and_decoding_are_timed_apart_and_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a prompt takes 100 seconds of, and a token 1 more than the one before."""
    loaded = load(tmp_path)
    seconds, taken = [0.0], iter([100.0, 1.0, 2.0, 3.0])

    def work(*_: object) -> None:
        seconds[0] += next(taken)

    loaded.model.register_forward_hook(work)
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    decoded = decode(loaded, random_prompts(loaded, batch_size=1, tokens=4, seed=0), 4)
    assert (decoded.prefill_seconds, decoded.decode_seconds, decoded.step_seconds) == (100, 6, (1, 2, 3))
