"""Decoding over a static cache, fused or not, gives the tokens and logits of the growing cache."""

import copy
from pathlib import Path

import pytest
import torch

from harness.architectures.blocks import decoder_blocks
from harness.backends.native.fused_blocks import FusedAttention, FusedMlp, fuse
from harness.backends.native.static_cache import KeyValueRoom, LayerSize, layer_sizes
from harness.backends.native.static_decoding import StaticDecoder, Stepping
from harness.contract import Device, DeviceKind, Dtype, Quantization
from harness.errors import BadRequest
from harness.models.decoding import decode, random_prompts
from harness.models.loading import LoadedModel, load_model
from harness.quantization.activations import attach
from tests.support.small_checkpoints import CONFIGURATIONS, publish_checkpoint, small_model
from tests.support.zoo import ZOO, zoo_checkpoint

DEVICE = Device(threads=1)
CPU = torch.device("cpu")


def load(tmp_path: Path, family: str) -> LoadedModel:
    return load_model(publish_checkpoint(tmp_path / family, small_model(family)), DEVICE, None)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_tokens_equal_those_of_the_growing_cache(tmp_path: Path, name: str, fused: bool) -> None:
    zoo_checkpoint(name, tmp_path / name)
    loaded = load_model(tmp_path / name, DEVICE, None)
    prompts = random_prompts(loaded, batch_size=3, tokens=9, seed=1)
    expected = decode(loaded, prompts, 12).tokens
    if fused:
        fuse(loaded.model)
    decoder = StaticDecoder(loaded, Stepping.STATIC, kv_tokens=128)
    for _ in range(2):
        assert torch.equal(decoder.decode(prompts, 12).tokens, expected)


def test_batches_of_different_sizes_take_turns_in_one_room(tmp_path: Path) -> None:
    loaded = load(tmp_path, "llama")
    decoder = StaticDecoder(loaded, Stepping.STATIC, kv_tokens=4 * 16)
    for size, seed in ((4, 1), (1, 2), (4, 3)):
        prompts = random_prompts(loaded, batch_size=size, tokens=7, seed=seed)
        assert torch.equal(decoder.decode(prompts, 9).tokens, decode(loaded, prompts, 9).tokens)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_a_prompt_of_one_token_and_a_shorter_prompt_after_a_longer_one(tmp_path: Path, family: str) -> None:
    loaded = load(tmp_path, family)
    decoder = StaticDecoder(loaded, Stepping.STATIC, kv_tokens=32)
    for tokens in (10, 1):
        prompts = random_prompts(loaded, batch_size=1, tokens=tokens, seed=tokens)
        assert torch.equal(decoder.decode(prompts, 12 - tokens).tokens, decode(loaded, prompts, 12 - tokens).tokens)


@pytest.mark.parametrize("family", sorted(CONFIGURATIONS))
def test_fused_blocks_compute_the_same_logits(family: str) -> None:
    model = small_model(family)
    fused = copy.deepcopy(model)
    changed = fuse(fused)
    assert changed == (0 if family.startswith("opt") else 2)
    tokens = torch.arange(30).view(2, 15)
    torch.testing.assert_close(fused(tokens).logits, model(tokens).logits, rtol=1e-5, atol=1e-5)


def test_fusing_keeps_the_number_of_weights_and_drops_the_parts() -> None:
    model = small_model("qwen2")
    before = sum(weight.numel() for weight in model.parameters())
    fuse(model)
    kinds = [type(module) for module in model.modules()]
    assert (kinds.count(FusedAttention), kinds.count(FusedMlp)) == (2, 2)
    assert not any("q_proj" in name or "gate_proj.weight" in name for name, _ in model.named_parameters())
    assert sum(weight.numel() for weight in model.parameters()) == before


@pytest.mark.parametrize(
    "quantization",
    [
        Quantization(weight_bits=8, activation_bits=8, simulated=True),
        Quantization(weight_bits=4, activation_bits=16, attention_bits=4, simulated=True),
    ],
    ids=["linears", "attention"],
)
def test_simulated_activations_are_not_fused_away(quantization: Quantization) -> None:
    model = small_model("llama")
    attach(decoder_blocks(model), quantization)
    tokens = torch.arange(12)[None]
    expected = model(tokens).logits
    assert fuse(model) == 0
    torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_step_is_traced_whole_for_the_compiler(tmp_path: Path) -> None:
    """Without a break: else a part of each step would be started from Python."""
    loaded = load(tmp_path, "llama")
    fuse(loaded.model)
    prompts = random_prompts(loaded, batch_size=2, tokens=5, seed=0)
    decoder = StaticDecoder(loaded, Stepping.STATIC, kv_tokens=64)
    expected = decoder.decode(prompts, 8).tokens
    batch = decoder._batch(prompts, 13)
    batch._compute = torch.compile(batch._compute, backend="eager", fullgraph=True, dynamic=False)
    assert torch.equal(decoder.decode(prompts, 8).tokens, expected)


def test_step_times_add_up_to_the_decoding_time(tmp_path: Path) -> None:
    loaded = load(tmp_path, "llama")
    decoded = decode(loaded, random_prompts(loaded, batch_size=1, tokens=4, seed=0), 6)
    assert len(decoded.step_seconds) == 5
    assert 0 < sum(decoded.step_seconds) <= decoded.decode_seconds


def test_layers_of_a_pruned_model_have_rooms_of_their_own_size(tmp_path: Path) -> None:
    loaded = load(tmp_path, "mistral")
    assert layer_sizes(loaded.model, CPU) == (LayerSize(2, 16, 16),) * 2
    room = KeyValueRoom((LayerSize(2, 8, 8), LayerSize(1, 8, 8)), 16, dtype=torch.float16, device=CPU)
    assert room.held_bytes == 16 * (2 + 1) * 8 * 2 * 2


def test_a_batch_beyond_the_room_is_refused() -> None:
    room = KeyValueRoom((LayerSize(1, 4, 4),), 32, dtype=torch.float32, device=CPU)
    assert room.cache(2, 13).positions == 16
    with pytest.raises(BadRequest, match="3 sequences of 16 positions do not fit into keys and values for 32"):
        room.cache(3, 13)


@pytest.mark.gpu
@pytest.mark.parametrize("stepping", [Stepping.GRAPH, Stepping.COMPILED])
def test_replayed_steps_give_the_tokens_of_the_growing_cache(tmp_path: Path, stepping: Stepping) -> None:
    publish_checkpoint(tmp_path / "llama", small_model("llama"))
    loaded = load_model(tmp_path / "llama", Device(kind=DeviceKind.CUDA), Dtype.FLOAT32)
    expected = {size: decode(loaded, random_prompts(loaded, batch_size=size, tokens=9, seed=1), 12) for size in (1, 4)}
    fuse(loaded.model)
    decoder = StaticDecoder(loaded, stepping, kv_tokens=4 * 24)
    for size in (1, 4, 1):
        prompts = random_prompts(loaded, batch_size=size, tokens=9, seed=1)
        assert torch.equal(decoder.decode(prompts, 12).tokens, expected[size].tokens)
