"""ModelOpt's layouts, against plain loops over the documented bit positions; TensorRT-LLM itself is not run."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from harness.checkpoint import read_config
from harness.contract import Device, Reason
from harness.errors import Unsupported
from harness.exporting.source import Source
from harness.models.loading import load_model
from harness.quantization import layouts
from harness.quantization.layouts.scheme import Scheme
from tests.exporting.export_requests import AWQ, DENSE, GPTQ, INT, MODELOPT_AWQ, MODELOPT_FP8, PACK, export, logits
from tests.support.quantized_weights import Case, case, publish_quantized, random_weight
from tests.support.tiny_checkpoints import publish_model, tiny_model, tiny_tokens

TOKENS = tiny_tokens(2, 24)
SCHEME = Scheme(bits=4, symmetric=True, group_size=64)
FUSED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 3), st.sampled_from((64, 128)), st.integers(0, 99))
def test_a_byte_holds_two_rows_of_one_input_in_twos_complement(pairs: int, groups: int, size: int, seed: int) -> None:
    weight = random_weight(2 * pairs, groups * size, 4, size, seed=seed)
    stored = layouts.encode(MODELOPT_AWQ, weight, torch.bfloat16)
    for index, row in enumerate(stored["weight"].tolist()):
        for column, byte in enumerate(row):
            for offset, field in ((0, byte & 15), (1, byte >> 4)):
                signed = field - 16 if field > 7 else field
                assert signed == int(weight.codes[2 * index + offset, column]) - 8
    decoded = layouts.decode(MODELOPT_AWQ, stored, SCHEME)
    assert torch.equal(decoded.codes, weight.codes)
    assert torch.equal(decoded.scale, weight.scale)
    assert torch.equal(decoded.zero, weight.zero)


@pytest.mark.parametrize("stored", [case(PACK, 4, 64, symmetric=True), case(GPTQ, 4, 64, symmetric=True)], ids=str)
def test_symmetric_groups_of_64_reach_modelopt_and_come_back_bit_for_bit(tmp_path: Path, stored: Case) -> None:
    source = tmp_path / "source"
    publish_quantized(source, "llama-wide", stored)
    there, descriptor = export(source, MODELOPT_AWQ)
    back, _ = export(there, stored.format)
    original, returned = load_file(source / "model.safetensors"), load_file(back / "model.safetensors")
    assert original.keys() == returned.keys()
    assert all(torch.equal(tensor, returned[name]) for name, tensor in original.items())
    assert torch.equal(logits(there, TOKENS), logits(source, TOKENS))
    assert descriptor.exported is not None
    assert descriptor.exported.exact


def test_tensors_and_documents_are_those_that_tensorrt_llm_asks_for(tmp_path: Path) -> None:
    publish_quantized(tmp_path / "source", "llama-wide", case(PACK, 4, 64, symmetric=True))
    folder, _ = export(tmp_path / "source", MODELOPT_AWQ)
    tensors = load_file(folder / "model.safetensors")
    with Source(tmp_path / "source") as source:
        linears = tuple(source.packed_linears)
    assert len(linears) == 21
    for linear in linears:
        rows, inputs = 2 * tensors[f"{linear}.weight"].shape[0], tensors[f"{linear}.weight"].shape[1]
        assert tensors[f"{linear}.weight"].dtype is torch.uint8
        assert tensors[f"{linear}.weight_scale"].shape == (rows, inputs // 64)
        fused = linear.endswith(FUSED)
        assert (f"{linear}.pre_quant_scale" in tensors) is not fused
        if not fused:
            assert torch.equal(tensors[f"{linear}.pre_quant_scale"], torch.ones(inputs, dtype=torch.bfloat16))
    assert json.loads((folder / "hf_quant_config.json").read_text())["quantization"] == {
        "quant_algo": "W4A16_AWQ",
        "group_size": 64,
        "has_zero_point": False,
        "pre_quant_scale": True,
        "kv_cache_quant_algo": None,
        "exclude_modules": ["lm_head"],
    }


@pytest.mark.parametrize("stored", [case(PACK, 4, 64, symmetric=False), case(AWQ, 4, 64, symmetric=False)], ids=str)
def test_zero_points_are_refused_for_modelopt(tmp_path: Path, stored: Case) -> None:
    publish_quantized(tmp_path / "source", "llama-wide", stored)
    with pytest.raises(Unsupported, match="zero points") as refusal:
        export(tmp_path / "source", MODELOPT_AWQ)
    assert refusal.value.reason is Reason.SETTING


def test_fp8_rounds_to_the_nearest_number_with_one_scale_for_what_is_fused(tmp_path: Path) -> None:
    publish_model(tmp_path / "source", tiny_model("llama"), shard_size="20KB")
    folder, descriptor = export(tmp_path / "source", MODELOPT_FP8)
    dense = {
        name: part for path in (tmp_path / "source").glob("*.safetensors") for name, part in load_file(path).items()
    }
    made = {name: part for path in folder.glob("*.safetensors") for name, part in load_file(path).items()}
    layer = "model.layers.1"
    groups = [("self_attn", ("q_proj", "k_proj", "v_proj")), ("self_attn", ("o_proj",))]
    groups += [("mlp", ("gate_proj", "up_proj")), ("mlp", ("down_proj",))]
    for part, linears in groups:
        names = [f"{layer}.{part}.{linear}.weight" for linear in linears]
        largest = max(float(dense[name].abs().max()) for name in names)
        for name in names:
            scale = made[f"{name}_scale"]
            assert (scale.dtype, scale.shape) == (torch.float32, ())
            assert float(scale) == pytest.approx(largest / 448)
            assert made[name].dtype is torch.float8_e4m3fn
            error = (made[name].float() * scale - dense[name].float()).abs()
            assert bool((error <= dense[name].float().abs() / 16 + scale * 2**-10).all())
    assert not [name for name in made if "input_scale" in name]
    assert torch.equal(made["lm_head.weight"], dense["lm_head.weight"])
    assert descriptor.exported is not None
    assert not descriptor.exported.exact
    assert descriptor.quantization is not None
    assert descriptor.quantization.float8
    assert read_config(folder)["quantization_config"]["quant_algo"] == "FP8"
    with pytest.raises(Unsupported, match="not read here"):
        load_model(folder, Device(threads=1))


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (case(INT, 8, 0, symmetric=True, activation_bits=8), "takes any 8-bit weights of compressed-tensors for FP8"),
        (case(PACK, 8, 0, symmetric=True), "rounded a second time"),
    ],
    ids=["w8a8", "w8a16"],
)
def test_integers_are_never_labelled_as_fp8(tmp_path: Path, stored: Case, words: str) -> None:
    publish_quantized(tmp_path / "source", "llama", stored)
    with pytest.raises(Unsupported, match=words):
        export(tmp_path / "source", MODELOPT_FP8)
    dense, _ = export(tmp_path / "source", DENSE)
    with pytest.raises(Unsupported, match="rounded a second time"):
        export(dense, MODELOPT_FP8)
