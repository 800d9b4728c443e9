"""Codes of ours in llama.cpp's blocks: what a block is worth is what the codes were, bit for bit where that can be."""

import ctypes

import gguf
import pytest
import torch

from harness.contract import CheckpointFormat, Quantization, Reason
from harness.contract.ggml import BLOCK_SHAPES, BlockType, inputs_of, mean_code_bits, suffix_of
from harness.errors import BadCheckpoint, Unsupported, WorkerError
from harness.quantization import layouts
from harness.quantization.ggml.blocks import lay_into_blocks
from harness.quantization.ggml.rounding import round_to, type_of_rows
from harness.quantization.layouts.scheme import Scheme
from harness.quantization.weight import QuantizedWeight
from tests.support.quantized_weights import random_weight

SCHEME = Scheme(bits=4, symmetric=True, group_size=32)


def exact(weight: QuantizedWeight) -> torch.Tensor:
    """Each product of scale and code difference, in float32, which holds those of 16-bit scales exactly."""
    return weight.dequantize(torch.float32)


@pytest.mark.parametrize("block_type", BlockType)
def test_a_block_has_room_for_its_codes_and_a_little_for_their_scales(block_type: BlockType) -> None:
    shape = BLOCK_SHAPES[block_type]
    assert shape.code_bits < shape.bits_per_weight < shape.code_bits + 1.1
    assert inputs_of(block_type, (3, 2 * shape.size_bytes)) == 2 * shape.values
    assert inputs_of(block_type, (3, 2 * shape.size_bytes + 1)) is None


@pytest.mark.parametrize("group_size", [32, 64, 128, 0])
@pytest.mark.parametrize(("bits", "made"), [(2, "Q4_0"), (3, "Q4_0"), (4, "Q4_0"), (5, "Q8_0"), (8, "Q8_0")])
def test_symmetric_codes_lie_in_blocks_bit_for_bit(bits: int, made: str, group_size: int) -> None:
    weight = random_weight(6, 256, bits, group_size)
    laid = lay_into_blocks(weight)
    assert laid.weight.block_type.name == made
    assert laid.weight.shape == (6, 256)
    assert torch.equal(laid.weight.dequantize(torch.float32), exact(weight))
    assert laid.largest_change == 0
    assert torch.equal(laid.weight.rows(slice(2, 4)).dequantize(torch.float32), exact(weight)[2:4])


@pytest.mark.parametrize("group_size", [32, 128, 0])
@pytest.mark.parametrize("bits", [2, 4])
def test_codes_with_zeros_change_by_no_more_than_half_precision_of_the_smallest_value(
    bits: int, group_size: int
) -> None:
    weight = random_weight(6, 256, bits, group_size, symmetric=False)
    laid = lay_into_blocks(weight)
    assert laid.weight.block_type is BlockType.Q4_1
    step = weight.scale.float().repeat_interleave(256 // weight.scale.shape[1], dim=1)
    change = float(((laid.weight.dequantize(torch.float32) - exact(weight)).abs() / step).max())
    assert change <= (2**bits - 1) * 2**-11  # a half rounds the smallest value, of up to so many steps, by 2^-11
    assert laid.largest_change == pytest.approx(change, abs=1e-6)


def test_zeros_that_all_lie_in_the_middle_are_none() -> None:
    weight = random_weight(4, 64, 4, 32, symmetric=False)
    weight.zero.fill_(8)
    assert lay_into_blocks(weight).weight.block_type is BlockType.Q4_0


@pytest.mark.parametrize(("scale", "least"), [(1e-6, 1e-3), (0.1, 1e-5)])
def test_scales_that_a_half_does_not_hold_are_measured(scale: float, least: float) -> None:
    """1e-6 lies where halves have no more than four digits of two; 0.1 in float32 has more digits than a half."""
    plain = random_weight(4, 64, 4, 32)
    weight = QuantizedWeight(plain.codes, torch.full((4, 2), scale), plain.zero, 4, symmetric=True)
    laid = lay_into_blocks(weight)
    change = float(((laid.weight.dequantize(torch.float32) - exact(weight)).abs() / scale).max())
    assert least < laid.largest_change == pytest.approx(change, rel=1e-3)


def test_what_no_block_holds_is_refused_with_its_reason() -> None:
    huge = random_weight(4, 64, 4, 32)
    for weight, reason, words in (
        (random_weight(4, 64, 8, 32, symmetric=False), Reason.SETTING, "codes of 8 bits with zeros"),
        (random_weight(4, 64, 4, 16), Reason.SHAPE, "groups of 16 inputs"),
        (random_weight(4, 48, 4), Reason.SHAPE, "rows of 48 weights"),
        (random_weight(4, 64, 4, 32, act_order=True), Reason.SETTING, "order of the activations"),
        (
            QuantizedWeight(huge.codes, torch.full((4, 2), 1e6), huge.zero, 4, symmetric=True),
            Reason.SHAPE,
            "halves hold",
        ),
    ):
        with pytest.raises(Unsupported, match=words) as refused:
            lay_into_blocks(weight)
        assert refused.value.reason is reason


@pytest.mark.parametrize("asked", [one for one in BlockType if BLOCK_SHAPES[one].values == 256])
def test_rows_that_no_blocks_of_256_fill_take_blocks_of_32_with_no_fewer_bits(asked: BlockType) -> None:
    assert type_of_rows(asked, 512) is asked
    taken = type_of_rows(asked, 576)
    assert taken is not None
    assert BLOCK_SHAPES[taken].values == 32
    assert BLOCK_SHAPES[taken].code_bits >= BLOCK_SHAPES[asked].code_bits
    assert type_of_rows(asked, 48) is None


def test_rows_that_no_blocks_of_32_fill_stay_floats() -> None:
    assert type_of_rows(BlockType.Q8_0, 48) is None


def test_operations_count_by_the_square_of_the_bits() -> None:
    assert mean_code_bits({BlockType.Q4_K: 3, BlockType.Q8_0: 1}) == pytest.approx(((3 * 16 + 64) / 4) ** 0.5)


def test_a_checkpoint_s_blocks_are_found_by_the_names_of_their_tensors() -> None:
    blocks = lay_into_blocks(random_weight(4, 64, 4, 32)).weight
    names = ["model.norm.weight", f"a.q_proj.{suffix_of(BlockType.Q4_0)}", f"a.k_proj.{suffix_of(BlockType.Q6_K)}"]
    found = layouts.quantized_linears(CheckpointFormat.GGUF, names)
    assert found == {"a.q_proj": {"weight_q4_0": "a.q_proj.weight_q4_0"}, "a.k_proj": {"weight_q6_k": names[2]}}
    read = layouts.read_weight(CheckpointFormat.GGUF, {"weight_q4_0": blocks.blocks}, SCHEME)
    assert torch.equal(read.dequantize(torch.float32), blocks.dequantize(torch.float32))
    with pytest.raises(BadCheckpoint, match="stand for the same weights"):
        layouts.read_weight(CheckpointFormat.GGUF, {"weight_q4_0": blocks.blocks, "weight_q8_0": blocks.blocks}, SCHEME)
    with pytest.raises(BadCheckpoint, match="no whole blocks of q8_0"):
        layouts.read_weight(CheckpointFormat.GGUF, {"weight_q8_0": blocks.blocks}, SCHEME)
    with pytest.raises(BadCheckpoint, match=r"no tensor \*\.weight_"):
        layouts.quantized_linears(CheckpointFormat.GGUF, ["model.norm.weight"])


def test_config_and_descriptor_of_blocks_are_held_against_each_other() -> None:
    how = Quantization(weight_bits=4, activation_bits=16, group_size=32, symmetric=False)
    config = {"quantization_config": layouts.quantization_config(CheckpointFormat.GGUF, how, ignored=["lm_head"])}
    scheme = layouts.check_config(CheckpointFormat.GGUF, how, config)
    assert scheme == Scheme(bits=4, symmetric=False, group_size=32)
    with pytest.raises(BadCheckpoint, match="group size: 64 by the descriptor, 32 by"):
        layouts.check_config(CheckpointFormat.GGUF, how.model_copy(update={"group_size": 64}), config)


class Library:
    """In place of llama.cpp's: the rows' bytes are numbered through, as far as `lacking` of them."""

    def __init__(self, size_bytes: int, lacking: int = 0, needs_matrix: bool = False) -> None:
        self.size_bytes, self.lacking, self.needs_matrix = size_bytes, lacking, needs_matrix
        self.begun: list[int] = []
        self.values: list[float] = []

    def ggml_quantize_requires_imatrix(self, number: int) -> bool:
        return self.needs_matrix

    def ggml_quantize_init(self, number: int) -> None:
        self.begun.append(number)

    def ggml_quantize_chunk(
        self, number: int, values: int, into: int, first: int, rows: int, inputs: int, matrix: None
    ) -> int:
        assert (self.begun, first, matrix) == ([number], 0, None)
        self.values = list((ctypes.c_float * (rows * inputs)).from_address(values))
        written = rows * inputs // BLOCK_SHAPES[BlockType.Q4_0].values * self.size_bytes - self.lacking
        ctypes.memmove(into, bytes(range(written)), written)
        return written


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_library_writes_of_a_weight_is_its_blocks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(BLOCK_SHAPES[BlockType.Q4_0].size_bytes)
    monkeypatch.setattr("harness.quantization.ggml.rounding.open_rounding", lambda: library)
    weight = torch.arange(3 * 64, dtype=dtype).view(64, 3).T
    found = round_to(weight, BlockType.Q4_0)
    assert library.begun == [int(gguf.GGMLQuantizationType.Q4_0)]
    assert library.values == weight.float().flatten().tolist()
    assert (found.block_type, found.shape) == (BlockType.Q4_0, (3, 64))
    assert found.blocks.dtype is torch.uint8
    assert found.blocks.flatten().tolist() == list(range(3 * 2 * library.size_bytes))


def test_another_number_of_bytes_or_a_type_that_needs_more_than_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = BLOCK_SHAPES[BlockType.Q4_0].size_bytes
    for library, words, kind in (
        (Library(size, lacking=1), f"wrote {6 * size - 1} bytes of .* for 3 rows of 64 weights", WorkerError),
        (Library(size, needs_matrix=True), "of an importance matrix alone", Unsupported),
    ):
        monkeypatch.setattr("harness.quantization.ggml.rounding.open_rounding", lambda library=library: library)
        with pytest.raises(kind, match=words) as refused:
            round_to(torch.zeros(3, 64), BlockType.Q4_0)
        assert refused.value.hint
