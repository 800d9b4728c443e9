"""What is written into a GGUF file, read back with the package `gguf`: numbers, order of rows, types, and refusals."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
import transformers
from safetensors.torch import load_file

from harness.backends.base import ServeOrder
from harness.backends.llama_cpp import loading, serving
from harness.backends.llama_cpp.gguf_file import Kind, neighbouring, write_gguf
from harness.checkpoint import open_checkpoint
from harness.contract import CheckpointFormat, Device, Reason
from harness.errors import Unsupported
from harness.models.loading import packed_format
from harness.models.packed import QuantizedLinears
from tests.support.small_checkpoints import GROUPED, publish_checkpoint, small_gemma3, small_model
from tests.support.stored_zoo import Stored, quantize, stored
from tests.support.zoo import zoo_checkpoint

GGUF_NAMES = {
    "q_proj": "blk.{}.attn_q.weight",
    "k_proj": "blk.{}.attn_k.weight",
    "v_proj": "blk.{}.attn_v.weight",
    "o_proj": "blk.{}.attn_output.weight",
    "gate_proj": "blk.{}.ffn_gate.weight",
    "up_proj": "blk.{}.ffn_up.weight",
    "down_proj": "blk.{}.ffn_down.weight",
}


def written(checkpoint: Path, kind: Kind = Kind.F32, *, context_tokens: int = 64) -> gguf.GGUFReader:
    target = checkpoint.with_suffix(f".{kind.value}.gguf")
    write_gguf(checkpoint, target, kind, context_tokens=context_tokens)
    return gguf.GGUFReader(target)


def tensor(reader: gguf.GGUFReader, name: str) -> torch.Tensor:
    found = next(one for one in reader.tensors if one.name == name)
    return torch.from_numpy(gguf.quants.dequantize(found.data, found.tensor_type).copy())


def number(reader: gguf.GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def llama(folder: Path, **changed: Any) -> Path:
    config = transformers.LlamaConfig(**{**GROUPED, **changed})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    publish_checkpoint(folder, model)
    return folder


def test_a_head_rotated_as_neighbours_scores_as_one_rotated_by_halves() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(2 * 8, generator=generator) for _ in range(2))
    angles = torch.rand(4, generator=generator)

    def turn(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()

    halves = torch.cat(turn(*queries.reshape(2, 2, 4).unbind(1)), dim=-1)
    pairs = torch.stack(turn(*neighbouring(queries, 2).reshape(2, 4, 2).unbind(2)), dim=-1).flatten(1)
    plain = (halves * keys.reshape(2, 8)).sum(-1)
    assert torch.allclose((pairs * neighbouring(keys, 2).reshape(2, 8)).sum(-1), plain, atol=1e-6)


@pytest.mark.parametrize("name", ["llama-gqa", "mistral"])
def test_weights_of_llama_are_those_of_the_checkpoint_but_for_the_order_of_query_and_key_rows(
    name: str, tmp_path: Path
) -> None:
    checkpoint = tmp_path / name
    zoo_checkpoint(name, checkpoint)
    reader, weights = written(checkpoint), load_file(checkpoint / "model.safetensors")
    query, key = (weights[f"model.layers.1.self_attn.{one}_proj.weight"].float() for one in "qk")
    assert torch.equal(tensor(reader, "blk.1.attn_q.weight"), neighbouring(query, 4))
    assert not torch.equal(tensor(reader, "blk.1.attn_q.weight"), query)
    assert torch.equal(tensor(reader, "blk.1.attn_k.weight"), neighbouring(key, 2))
    for theirs, ours in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.3.self_attn.v_proj.weight", "blk.3.attn_v.weight"),
        ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        assert torch.equal(tensor(reader, ours), weights[theirs].float())


def test_qwen_keeps_the_order_of_rows_and_its_norms_and_biases(tmp_path: Path) -> None:
    for name, extra in (("qwen2", "self_attn.q_proj.bias"), ("qwen3", "self_attn.q_norm.weight")):
        checkpoint = tmp_path / name
        zoo_checkpoint(name, checkpoint)
        reader, weights = written(checkpoint), load_file(checkpoint / "model.safetensors")
        query = weights["model.layers.0.self_attn.q_proj.weight"].float()
        assert torch.equal(tensor(reader, "blk.0.attn_q.weight"), query)
        stored = {"qwen2": "blk.0.attn_q.bias", "qwen3": "blk.0.attn_q_norm.weight"}[name]
        assert torch.equal(tensor(reader, stored), weights[f"model.layers.0.{extra}"].float())
        assert number(reader, "general.architecture") == name


def test_numbers_are_those_of_the_configuration(tmp_path: Path) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "model")
    reader = written(tmp_path / "model")
    stated = {
        "block_count": 4,
        "embedding_length": 128,
        "feed_forward_length": 384,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "rope.dimension_count": 32,
        "rope.freq_base": 500000.0,
        "context_length": 512,
        "vocab_size": 1024,
    }
    assert {key: number(reader, f"llama.{key}") for key in stated} == stated
    assert number(reader, "llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)


def test_norms_that_add_1_to_their_weight_are_written_with_it_added(tmp_path: Path) -> None:
    checkpoint = publish_checkpoint(tmp_path / "model", small_gemma3())
    reader, weights = written(checkpoint), load_file(checkpoint / "model.safetensors")
    names = {
        "output_norm.weight": "norm.weight",
        "blk.0.attn_norm.weight": "layers.0.input_layernorm.weight",
        "blk.0.attn_q_norm.weight": "layers.0.self_attn.q_norm.weight",
        "blk.0.post_attention_norm.weight": "layers.0.post_attention_layernorm.weight",
        "blk.0.ffn_norm.weight": "layers.0.pre_feedforward_layernorm.weight",
        "blk.0.post_ffw_norm.weight": "layers.0.post_feedforward_layernorm.weight",
    }
    for name, source in names.items():
        assert torch.equal(tensor(reader, name), weights[f"model.{source}"] + 1)
    query = weights["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(tensor(reader, "blk.0.attn_q.weight"), query)


def test_which_layers_slide_is_stated_with_their_window_and_their_rotary_base(tmp_path: Path) -> None:
    reader = written(publish_checkpoint(tmp_path / "model", small_gemma3()))
    stated = {
        "attention.sliding_window": 7,
        "attention.sliding_window_pattern": 2,
        "attention.key_length": 32,
        "rope.freq_base": 50000.0,
        "rope.freq_base_swa": 700.0,
    }
    assert {key: number(reader, f"gemma3.{key}") for key in stated} == stated
    full = publish_checkpoint(tmp_path / "full", small_gemma3(layer_types=["full_attention"] * 4))
    assert not any("sliding" in key for key in written(full).fields)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]}, "take turns"),
        ({"query_pre_attn_scalar": 16}, "scale is not that of its head size"),
        ({"final_logit_softcapping": 30.0}, "logits are capped"),
        ({"hidden_activation": "silu"}, "activation is silu"),
    ],
)
def test_a_gemma_3_that_llama_cpp_would_compute_otherwise_is_refused(
    changed: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    checkpoint = publish_checkpoint(tmp_path / "model", small_gemma3(**changed))
    with pytest.raises(Unsupported, match=reason):
        written(checkpoint)


def test_an_output_embedding_is_written_where_it_is_not_the_input_embedding(tmp_path: Path) -> None:
    for name, own in (("llama-mha", True), ("llama-gqa", False)):
        zoo_checkpoint(name, tmp_path / name)
        assert ("output.weight" in {one.name for one in written(tmp_path / name).tensors}) is own


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [(Kind.BF16, 0.0, 0.0), (Kind.F16, 0.0, 1e-3), (Kind.Q8_0, 1e-3, 0.01), (Kind.Q4_0, 0.02, 0.15)],
)
def test_matrices_are_stored_as_the_kind_says_and_vectors_in_float32(
    kind: Kind, least: float, most: float, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "model"
    zoo_checkpoint("llama-gqa", checkpoint)
    reader, weights = written(checkpoint, kind), load_file(checkpoint / "model.safetensors")
    types = {one.name: one.tensor_type.name for one in reader.tensors}
    assert {kind_name for name, kind_name in types.items() if "norm" not in name} == {kind.name}
    assert {kind_name for name, kind_name in types.items() if "norm" in name} == {"F32"}
    exact = weights["model.layers.0.mlp.up_proj.weight"].float()
    difference = (tensor(reader, "blk.0.ffn_up.weight") - exact).norm() / exact.norm()
    assert least <= difference <= most


def test_scaled_rotary_frequencies_are_written_as_divisors(tmp_path: Path) -> None:
    rotary = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    factors = tensor(written(llama(tmp_path / "model", rope_parameters=rotary)), "rope_freqs.weight")
    wavelengths = 2 * numpy.pi * 10000.0 ** (numpy.arange(4) / 4)
    assert factors.shape == (4,)
    assert factors[wavelengths < 64 / 4] == pytest.approx(1.0)
    assert factors[wavelengths > 64] == pytest.approx(8.0)
    assert 1.0 < factors[1] < 8.0


def test_what_is_not_written_is_refused_with_its_reason(tmp_path: Path) -> None:
    publish_checkpoint(tmp_path / "opt", small_model("opt"))
    zoo_checkpoint("mistral", tmp_path / "mistral")
    llama(tmp_path / "biased", attention_bias=True)
    llama(tmp_path / "scaled", rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0})
    llama(tmp_path / "uneven")
    for name, context, kind, reason in (
        ("opt", 64, Kind.F32, Reason.ARCHITECTURE),
        ("mistral", 129, Kind.F32, Reason.ARCHITECTURE),
        ("biased", 64, Kind.F32, Reason.ARCHITECTURE),
        ("scaled", 64, Kind.F32, Reason.ARCHITECTURE),
        ("uneven", 64, Kind.Q4_0, Reason.SHAPE),
    ):
        with pytest.raises(Unsupported) as refused:
            written(tmp_path / name, kind, context_tokens=context)
        assert refused.value.reason is reason, name


def test_layers_of_different_widths_are_refused(tmp_path: Path) -> None:
    checkpoint = llama(tmp_path / "model")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    width = {"heads": 4, "key_value_heads": 2, "intermediate_size": 48}
    config["llmcbench_layers"] = [width, {**width, "intermediate_size": 32}]
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(Unsupported) as refused:
        written(checkpoint)
    assert refused.value.reason is Reason.SHAPE


def test_the_file_lies_where_there_is_room_for_a_model_and_goes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's /tmp holds two gigabytes, of its memory."""
    checkpoint = llama(tmp_path / "model")
    work = tmp_path / "work"
    work.mkdir()

    def stop(library: Any, log: Any, file: Path, *_: Any, **__: Any) -> None:
        assert file.is_file()
        assert file.is_relative_to(work)
        raise ValueError("stopped on purpose")

    monkeypatch.setattr(loading, "open_library", lambda: None)
    monkeypatch.setattr(loading, "Log", lambda library: None)
    monkeypatch.setattr(loading, "open_session", stop)
    order = ServeOrder(
        checkpoint=checkpoint,
        device=Device(threads=1),
        dtype=None,
        context_tokens=64,
        batch_sizes=(1,),
        kv_tokens=128,
        options=serving.LlamaCppOptions(),
        work=work,
    )
    with pytest.raises(ValueError, match="stopped on purpose"), serving.serve(order):
        pytest.fail("nothing is served")
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("how", "made"),
    [
        (stored(CheckpointFormat.PACK_QUANTIZED, 4, symmetric=True), "Q4_0"),
        (stored(CheckpointFormat.PACK_QUANTIZED, 2, symmetric=True), "Q4_0"),
        (stored(CheckpointFormat.PACK_QUANTIZED, 8, symmetric=True), "Q8_0"),
        (stored(CheckpointFormat.INT_QUANTIZED, 8, symmetric=True, activation_bits=8), "Q8_0"),
        (stored(CheckpointFormat.GPTQ, 4, symmetric=True), "Q4_0"),
        (stored(CheckpointFormat.AWQ, 4, symmetric=False), "Q4_1"),
    ],
    ids=lambda one: str(one),
)
def test_codes_of_a_checkpoint_are_what_the_file_is_worth_bit_for_bit(how: Stored, made: str, tmp_path: Path) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "dense")
    checkpoint = quantize(tmp_path / "dense", tmp_path / "packed", how)
    reader = written(checkpoint, Kind.BF16)
    packed = packed_format(checkpoint, open_checkpoint(checkpoint))
    assert packed is not None
    with QuantizedLinears.open(checkpoint, packed) as linears:
        assert len(linears.names) == 28
        for linear in sorted(linears.names):
            weight = linears.read(linear)
            target = GGUF_NAMES[linear.rpartition(".")[2]].format(linear.split(".")[2])
            exact = weight.dequantize(torch.float32)
            if "q_proj" in linear or "k_proj" in linear:
                exact = neighbouring(exact, 4 if "q_proj" in linear else 2)
            stored_as = next(one for one in reader.tensors if one.name == target).tensor_type.name
            assert stored_as == made
            difference = (tensor(reader, target) - exact).abs().max()
            step = float(weight.scale.float().max())
            assert difference <= (15 * 2**-11 * step if made == "Q4_1" else 0), linear
    others = {one.name: one.tensor_type.name for one in reader.tensors if not one.name.startswith("blk.")}
    assert others == {"token_embd.weight": "BF16", "output_norm.weight": "F32"}
