"""What a descriptor says of the weights is counted from the tensors, to the last value."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.contract import CheckpointDescriptor, CheckpointFormat, Dtype, Quantization, Sparsity
from harness.contract import weights as reading
from harness.contract.claims import Counted, count_claims
from harness.contract.weights import BadWeights, count_zeros, read_stored
from tests.support.safetensors_files import Stored, bf16, plain, write_safetensors

LINEAR = "model.layers.0.mlp.up_proj.weight"
OTHER = "model.layers.1.mlp.up_proj.weight"
DRAWN = np.random.default_rng(0)
W4 = Quantization(weight_bits=4, activation_bits=16, group_size=32)
W8A8 = Quantization(weight_bits=8, activation_bits=8)


def values(rows: int, inputs: int) -> np.ndarray:
    """Values of which none is zero, and few are alike."""
    return (np.abs(DRAWN.standard_normal((rows, inputs))) + 0.01).astype(np.float32)


def pruned(rows: int, inputs: int, pattern: tuple[int, int]) -> np.ndarray:
    zeros, length = pattern
    made = values(rows, inputs)
    made.reshape(-1, length)[:, :zeros] = 0
    return made


def counted(folder: Path, tensors: dict[str, Stored], **claims: Any) -> Counted:
    """Tensors with an embedding of 12 and a norm of 4 values beside them, and what is counted of these claims."""
    rest = {"model.embed_tokens.weight": bf16(np.zeros((3, 4))), "model.layers.0.norm.weight": bf16(np.ones(4))}
    write_safetensors(folder / "model.safetensors", {**tensors, **rest})
    facts: dict[str, Any] = {
        "format": CheckpointFormat.DENSE,
        "dtype": Dtype.BFLOAT16,
        "architecture": "LlamaForCausalLM",
        "source": "s",
        "files": {},
    }
    return count_claims(folder, CheckpointDescriptor(**(facts | claims)))


def untrue(found: Counted) -> list[str]:
    return [f"{one.field}: {one.said} / {one.found}" for one in found.untrue]


def sparse(measured: float, pattern: str = "unstructured") -> Sparsity:
    return Sparsity(pattern=pattern, target=0.5, measured=measured)


DTYPES = [
    ("F32", lambda array: plain("F32", array), Dtype.FLOAT32),
    ("F16", lambda array: plain("F16", array.astype(np.float16)), Dtype.FLOAT16),
    ("BF16", bf16, Dtype.BFLOAT16),
]


@pytest.mark.parametrize(("name", "store", "dtype"), DTYPES, ids=[one[0] for one in DTYPES])
def test_zeros_and_parameters_are_counted_in_every_dtype(tmp_path: Path, name: str, store: Any, dtype: Dtype) -> None:
    first, second = values(6, 10), values(4, 5)
    first[2, 3:7] = 0
    second[0, 0] = -0.0
    found = counted(
        tmp_path, {LINEAR: store(first), OTHER: store(second)}, parameter_count=96, sparsity=sparse(5 / 80), dtype=dtype
    )
    assert (found.parameter_count, found.weights, found.zeros) == (96, 80, 5)
    assert untrue(found) == []


def test_eight_bit_floats_and_integers_have_zeros_as_well(tmp_path: Path) -> None:
    content = bytes([0, 128, 1, 0, 255, 127, 64, 3])
    tensors = {
        "layers.0.a.weight": ("F8_E4M3", (2, 4), content),
        "layers.0.b.weight": ("I8", (2, 4), content),
        "layers.0.c.weight": ("F64", (1, 2), struct.pack("<dd", -0.0, 2.0)),
    }
    write_safetensors(tmp_path / "model.safetensors", tensors)
    found = count_zeros(list(read_stored(tmp_path).values()))
    assert {name: (one.values, one.zeros) for name, one in found.items()} == {
        "layers.0.a.weight": (8, 3),
        "layers.0.b.weight": (8, 2),
        "layers.0.c.weight": (2, 1),
    }


def test_counting_in_pieces_and_shards_counts_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PIECE_BYTES", 64)
    monkeypatch.setattr(reading, "_TASK_BYTES", 256)
    first, second = pruned(37, 8, (2, 4)), pruned(5, 24, (4, 8))
    write_safetensors(tmp_path / "a.safetensors", {LINEAR: bf16(first)})
    write_safetensors(tmp_path / "b.safetensors", {OTHER: bf16(second)})
    found = count_zeros(list(read_stored(tmp_path).values()), (2, 4))
    assert (found[LINEAR].values, found[LINEAR].zeros, found[LINEAR].broken) == (296, 148, None)
    assert (found[OTHER].values, found[OTHER].zeros) == (120, 60)
    assert found[OTHER].broken == f"{OTHER} has 0 zeros in row 0, inputs 4 to 7"


@pytest.mark.parametrize("pattern", [(2, 4), (4, 8), (1, 2), (3, 5)], ids=lambda one: f"{one[0]}:{one[1]}")
def test_a_pattern_holds_to_the_last_group_of_every_row(tmp_path: Path, pattern: tuple[int, int]) -> None:
    zeros, length = pattern
    whole = pruned(7, 40, pattern)
    said = {"parameter_count": 296, "sparsity": sparse(zeros / length, f"{zeros}:{length}")}
    assert untrue(counted(tmp_path, {LINEAR: bf16(whole)}, **said)) == []
    broken = whole.copy()
    broken[6, 40 - length] = 1.0
    [claim] = untrue(counted(tmp_path, {LINEAR: bf16(broken)}, **said | {"sparsity": sparse(0.9, "unstructured")}))
    assert claim.startswith("sparsity.measured: 0.9 / ")
    share = (zeros / length * 280 - 1) / 280
    found = counted(tmp_path, {LINEAR: bf16(broken)}, **said | {"sparsity": sparse(share, f"{zeros}:{length}")})
    assert untrue(found) == [
        f"sparsity.pattern: {zeros}:{length} / broken: {LINEAR} has {zeros - 1} zeros in row 6, "
        f"inputs {40 - length} to 39"
    ]


def test_a_pattern_is_one_of_inputs_and_not_of_outputs(tmp_path: Path) -> None:
    turned = pruned(8, 8, (2, 4)).T.copy()
    [claim] = untrue(counted(tmp_path, {LINEAR: bf16(turned)}, parameter_count=80, sparsity=sparse(0.5, "2:4")))
    assert claim == f"sparsity.pattern: 2:4 / broken: {LINEAR} has 0 zeros in row 2, inputs 0 to 3"


def test_inputs_that_the_pattern_does_not_divide_break_it(tmp_path: Path) -> None:
    made = np.zeros((2, 6), dtype=np.float32)
    [claim] = untrue(counted(tmp_path, {LINEAR: bf16(made)}, parameter_count=28, sparsity=sparse(1.0, "2:4")))
    assert claim == f"sparsity.pattern: 2:4 / broken: {LINEAR} has 6 inputs, no multiple of 4"


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"parameter_count": 95}, "parameter_count: 95 / 96"),
        ({"parameter_count": 97}, "parameter_count: 97 / 96"),
        ({"sparsity": sparse(0.5)}, "sparsity.measured: 0.5 / 0.0000"),
        ({"dtype": Dtype.FLOAT16}, "dtype: float16 / bfloat16"),
        ({"quantization": W4}, "quantization.simulated: False / floating-point weights, without codes"),
        (
            {"quantization": W4.model_copy(update={"simulated": True, "weight_bits": 2, "group_size": 0})},
            f"quantization.weight_bits: 2 / more: a row of {LINEAR} has 10 different values, and 4 are possible",
        ),
        ({"format": CheckpointFormat.GPTQ, "quantization": W4}, f"quantization.weight_bits: 4 / BF16 ({LINEAR})"),
        ({"format": CheckpointFormat.AWQ}, "quantization: none / stored as awq"),
    ],
)
def test_each_false_claim_about_dense_weights_is_named_with_both_values(
    tmp_path: Path, claims: dict[str, Any], words: str
) -> None:
    ladder = np.arange(1, 81, dtype=np.float32)
    tensors = {LINEAR: bf16(ladder[:60].reshape(6, 10)), OTHER: bf16(ladder[60:].reshape(4, 5))}
    assert untrue(counted(tmp_path, tensors, parameter_count=96)) == []
    assert untrue(counted(tmp_path, tensors, **{"parameter_count": 96} | claims)) == [words]


def test_simulated_weights_have_as_few_values_as_their_bits_allow(tmp_path: Path) -> None:
    steps = bf16(DRAWN.integers(-8, 8, (4, 64)).astype(np.float32))
    how = W4.model_copy(update={"simulated": True, "group_size": 0})
    assert untrue(counted(tmp_path, {LINEAR: steps}, parameter_count=272, quantization=how)) == []
    three = how.model_copy(update={"weight_bits": 3})
    [claim] = untrue(counted(tmp_path, {LINEAR: steps}, parameter_count=272, quantization=three))
    assert claim.startswith("quantization.weight_bits: 3 / more: ")


def codes(rows: int, columns: int, dtype: Any = np.int32) -> np.ndarray:
    return DRAWN.integers(1, 100, (rows, columns)).astype(dtype)


def packed(stored_as: CheckpointFormat) -> tuple[dict[str, Stored], Quantization]:
    """One linear of 64 outputs and 128 inputs, in groups of 32 where the format has groups."""
    name = LINEAR.removesuffix("weight")
    scales, ones = bf16(np.ones((64, 4))), bf16(np.ones((4, 64)))
    match stored_as:
        case CheckpointFormat.PACK_QUANTIZED:
            shape = plain("I64", np.array([64, 128], dtype=np.int64))
            parts = {"weight_packed": plain("I32", codes(64, 16)), "weight_scale": scales, "weight_shape": shape}
        case CheckpointFormat.GPTQ:
            index = plain("I32", np.arange(128, dtype=np.int32) // 32)
            parts = {"qweight": plain("I32", codes(16, 64)), "scales": ones, "g_idx": index}
            parts["qzeros"] = plain("I32", codes(4, 8))
        case CheckpointFormat.AWQ:
            parts = {"qweight": plain("I32", codes(128, 8)), "scales": ones, "qzeros": plain("I32", codes(4, 8))}
        case CheckpointFormat.MODELOPT_AWQ:
            parts = {"weight": plain("U8", codes(32, 128, np.uint8)), "weight_scale": scales}
        case CheckpointFormat.GGUF:
            parts = {"weight_q4_0": plain("U8", codes(64, 128 // 32 * 18, np.uint8))}
        case CheckpointFormat.INT_QUANTIZED:
            parts = {"weight": plain("I8", codes(64, 128, np.int8)), "weight_scale": bf16(np.ones((64, 1)))}
        case _:
            scalar = ("F32", (), struct.pack("<f", 1.0))
            parts = {"weight": plain("F8_E4M3", codes(64, 128, np.uint8)), "weight_scale": scalar}
    wide = stored_as in (CheckpointFormat.INT_QUANTIZED, CheckpointFormat.MODELOPT_FP8)
    how = W8A8.model_copy(update={"float8": stored_as is CheckpointFormat.MODELOPT_FP8}) if wide else W4
    return {name + suffix: part for suffix, part in parts.items()}, how


PACKED = [one for one in CheckpointFormat if one is not CheckpointFormat.DENSE]


@pytest.mark.parametrize("stored_as", PACKED)
def test_bits_group_size_and_parameters_of_packed_codes_follow_from_shapes(
    tmp_path: Path, stored_as: CheckpointFormat
) -> None:
    tensors, how = packed(stored_as)
    said: dict[str, Any] = {"format": stored_as, "parameter_count": 64 * 128 + 16, "quantization": how}
    assert untrue(counted(tmp_path, tensors, **said)) == []
    assert untrue(counted(tmp_path, tensors, **said | {"parameter_count": 64 * 128 + 15})) == [
        "parameter_count: 8207 / 8208"
    ]
    bits = how.weight_bits
    [claim] = untrue(counted(tmp_path, tensors, **said | {"quantization": how.model_copy(update={"weight_bits": 3})}))
    found = "q4_0" if stored_as is CheckpointFormat.GGUF else f"{bits} ({LINEAR.removesuffix('.weight')})"
    assert claim == f"quantization.weight_bits: 3 / {found}"
    [claim] = untrue(counted(tmp_path, tensors, **said | {"quantization": how.model_copy(update={"group_size": 64})}))
    assert claim.startswith("quantization.group_size: 64 / ")


@pytest.mark.parametrize("stored_as", PACKED)
def test_one_linear_that_was_left_as_it_was_is_found(tmp_path: Path, stored_as: CheckpointFormat) -> None:
    tensors, how = packed(stored_as)
    found = counted(
        tmp_path, {**tensors, OTHER: bf16(values(2, 4))}, format=stored_as, parameter_count=8216, quantization=how
    )
    assert untrue(found) == [f"quantization.weight_bits: {how.weight_bits} / BF16 ({OTHER})"]


def test_in_llama_cpp_s_blocks_one_matrix_is_of_the_stated_kind_and_all_are_counted(tmp_path: Path) -> None:
    tensors = {
        "model.layers.0.mlp.up_proj.weight_q5_0": plain("U8", codes(4, 96 // 32 * 22, np.uint8)),
        "model.layers.0.mlp.down_proj.weight_q4_k": plain("U8", codes(2, 256 // 256 * 144, np.uint8)),
        "model.embed.weight_q8_0": plain("U8", codes(3, 34, np.uint8)),
    }
    how = Quantization(weight_bits=4, activation_bits=16, group_size=32, symmetric=False)
    said: dict[str, Any] = {
        "format": CheckpointFormat.GGUF,
        "parameter_count": 4 * 96 + 2 * 256 + 3 * 32 + 16,
        "quantization": how,
    }
    found = counted(tmp_path, tensors, **said)
    assert (untrue(found), found.weights) == ([], 4 * 96 + 2 * 256)
    assert found.bits_per_weight == pytest.approx((384 * 5.5 + 512 * 4.5) / 896)
    assert found.code_bits == pytest.approx(((384 * 25 + 512 * 16) / 896) ** 0.5)
    for changed, words in (
        ({"weight_bits": 8}, "quantization.weight_bits: 8 / q4_k, q5_0"),
        ({"group_size": 16}, "quantization.group_size: 16 / q4_k, q5_0"),
        ({"symmetric": True}, "quantization.symmetric: True / q4_k, q5_0"),
    ):
        assert untrue(counted(tmp_path, tensors, **said | {"quantization": how.model_copy(update=changed)})) == [words]
    tensors["model.layers.0.mlp.up_proj.weight_q5_0"] = plain("U8", codes(4, 65, np.uint8))
    with pytest.raises(BadWeights, match="no whole blocks"):
        counted(tmp_path, tensors, **said)


def test_zero_points_contradict_symmetric_weights(tmp_path: Path) -> None:
    tensors, how = packed(CheckpointFormat.PACK_QUANTIZED)
    name = LINEAR.removesuffix("weight")
    tensors[f"{name}weight_zero_point"] = plain("I32", codes(8, 4))
    said: dict[str, Any] = {"format": CheckpointFormat.PACK_QUANTIZED, "parameter_count": 8208}
    [claim] = untrue(counted(tmp_path, tensors, **said, quantization=how))
    assert claim.startswith("quantization.symmetric")
    assert untrue(counted(tmp_path, tensors, **said, quantization=how.model_copy(update={"symmetric": False}))) == []


def test_zeros_of_symmetric_codes_are_counted_and_others_are_refused(tmp_path: Path) -> None:
    tensors, how = packed(CheckpointFormat.PACK_QUANTIZED)
    name = LINEAR.removesuffix("weight")
    words = np.full((64, 16), 0x11111111, dtype=np.uint32)
    words[:, :4] = 0x88888888  # a quarter of the codes is 8, which stands for zero
    words[0, 4] = 0x81111111
    tensors[f"{name}weight_packed"] = plain("I32", words)
    said: dict[str, Any] = {
        "format": CheckpointFormat.PACK_QUANTIZED,
        "parameter_count": 8208,
        "quantization": how,
        "sparsity": sparse(0.25),
    }
    found = counted(tmp_path, tensors, **said)
    assert (found.zeros, found.weights, untrue(found)) == (2049, 8192, [])
    assert untrue(counted(tmp_path, tensors, **said | {"sparsity": sparse(0.5)})) == ["sparsity.measured: 0.5 / 0.2501"]
    hidden = "not to be counted in these codes"
    assert untrue(counted(tmp_path, tensors, **said | {"sparsity": sparse(0.25, "2:4")})) == [
        f"sparsity.pattern: 2:4 / {hidden}"
    ]
    tensors[f"{name}weight_zero_point"] = plain("I32", codes(8, 4))
    uneven = {"quantization": how.model_copy(update={"symmetric": False})}
    assert untrue(counted(tmp_path, tensors, **said | uneven)) == [f"sparsity.measured: 0.25 / {hidden}"]


def test_buffers_that_older_checkpoints_store_are_no_parameters(tmp_path: Path) -> None:
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": bf16(np.ones(4)),
        "h.0.attn.bias": bf16(np.ones((1, 1, 8, 8))),
        "h.0.attn.masked_bias": bf16(np.float32(-1e9)),
        "model.position_ids": plain("I64", np.arange(4)),
    }
    assert untrue(counted(tmp_path, {LINEAR: bf16(values(2, 4)), **buffers}, parameter_count=24)) == []


def test_zeros_where_no_tensor_can_have_them_are_not_believed(tmp_path: Path) -> None:
    [claim] = untrue(counted(tmp_path, {}, parameter_count=16, sparsity=sparse(0.5)))
    assert claim == "sparsity.measured: 0.5 / 0.0000"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "reaches beyond the end"),
        (b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}}', "has 12 bytes for"),
        (b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, -16]}}', "has -16 bytes for"),
        (b'{"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}', "whose size is not known"),
        (b"[" * 100_000, "is no safetensors file"),
        (b'{"a": 1}', "is no safetensors file"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, header: bytes, words: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(BadWeights, match=words):
        read_stored(tmp_path)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(BadWeights, match="not a regular file"):
        read_stored(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(BadWeights, match="cannot be read"):
        read_stored(tmp_path)


def test_counting_ends_when_it_is_told_to(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {LINEAR: bf16(values(4, 4))})

    def stop() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        count_zeros(list(read_stored(tmp_path).values()), poll=stop)
