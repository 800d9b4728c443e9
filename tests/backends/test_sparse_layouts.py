"""Sparse weights are packed into the bytes that are promised, and come back bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.contract import Reason
from harness.errors import Unsupported
from harness.kernels.sparse import gaps
from harness.kernels.sparse import two_four as layout
from tests.backends.sparse_weights import DEVICE, two_four, unstructured

HALVES = (torch.float16, torch.bfloat16)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 300), st.sampled_from(HALVES), st.integers(0, 99))
def test_a_two_four_weight_comes_back_bit_for_bit(rows, groups, dtype, seed):
    weight = two_four(rows, 4 * groups, dtype=dtype, seed=seed)
    packed = layout.pack(weight, name="layer")
    assert torch.equal(layout.unpack(packed).view(torch.int16), weight.view(torch.int16))


@settings(max_examples=50)
@given(st.integers(1, 70), st.integers(1, 600), st.sampled_from(HALVES), st.floats(0, 1), st.integers(0, 99))
def test_any_zeros_come_back_bit_for_bit(rows, inputs, dtype, zeros, seed):
    weight = unstructured(rows, inputs, zeros=zeros, dtype=dtype, seed=seed) + 0.0
    packed = gaps.pack(weight, name="layer")
    assert torch.equal(gaps.unpack(packed).view(torch.int16), weight.view(torch.int16))


def test_rows_of_any_lengths_come_back_bit_for_bit():
    weight = unstructured(70, 300, zeros=0.0)
    weight *= torch.rand(70, 300, generator=torch.Generator().manual_seed(0)).to(DEVICE) < torch.linspace(
        0, 1, 70, device=DEVICE
    ).unsqueeze(1)
    weight = weight + 0.0
    packed = gaps.pack(weight, name="layer")
    assert torch.equal(gaps.unpack(packed), weight)
    assert packed.ends.diff().tolist() == sorted(packed.ends.diff().tolist(), reverse=True)
    assert packed.longest == packed.ends[1]


def test_groups_with_fewer_than_two_values_are_two_four_as_well():
    weight = torch.zeros(1, 24, dtype=torch.float16, device=DEVICE)
    weight[0, [0, 5, 10, 15]] = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float16, device=DEVICE)
    assert torch.equal(layout.unpack(layout.pack(weight, name="layer")), weight)


def test_a_negative_zero_is_no_value():
    weight = torch.tensor([[-0.0, 1.0, -0.0, 2.0]], dtype=torch.float16, device=DEVICE)
    packed = layout.pack(weight, name="layer")
    assert layout.unpack(packed).tolist() == [[0.0, 1.0, 0.0, 2.0]]
    assert gaps.unpack(gaps.pack(weight, name="layer")).view(torch.int16).tolist() == [[0, 0x3C00, 0, 0x4000]]


def test_pairs_and_their_places_stand_where_the_layout_says():
    weight = two_four(40, 4 * 200)
    packed = layout.pack(weight, name="layer")
    groups = weight.view(40, 200, 4)
    assert packed.stream.shape == (2, 13, 576)
    for row, group in ((0, 0), (1, 17), (31, 127), (32, 128), (39, 199)):
        segment = packed.stream[row // 32, group // 16]
        word = int(segment[row % 32 * 2 + group % 16 // 8])
        nibble = (word >> (4 * (group % 8))) & 15
        present = groups[row, group].nonzero().flatten().tolist()
        assert [nibble & 3, nibble >> 2] == present
        at = 64 + group % 16 // 4 * 128 + row % 32 * 4 + group % 4
        assert torch.equal(segment[at : at + 1].view(torch.float16), groups[row, group][present])


def test_gaps_and_their_values_stand_where_the_layout_says():
    weight = torch.zeros(2, 100, dtype=torch.float16, device=DEVICE)
    weight[0, 3] = 1.0
    weight[1, [2, 3, 20, 99]] = torch.tensor([5.0, 6.0, 7.0, 8.0], dtype=torch.float16, device=DEVICE)
    packed = gaps.pack(weight, name="layer")
    assert packed.order[0, :2].tolist() == [1, 0]
    assert packed.ends.tolist() == [0, 1]
    assert packed.starts[0, :2].tolist() == [2, 3]
    words = packed.stream[0, 0, 0].tolist()
    entries = [(word >> (4 * place)) & 15 for word in words for place in range(8)]
    assert entries[:10] == [0, 1, 15, 2, 15, 15, 15, 15, 15, 4]
    values = packed.stream[0, 1:, 0].contiguous().view(torch.float16).flatten().tolist()
    assert values[:10] == [5.0, 6.0, 0.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.0]
    assert not any(values[10:])


def test_two_four_takes_nine_sixteenths_of_the_dense_bytes():
    weight = two_four(64, 4096)
    assert layout.pack(weight, name="layer").held_bytes == weight.nbytes * 9 // 16


def test_gaps_take_twenty_bits_and_a_half_a_value():
    weight = two_four(64, 4096)
    packed = gaps.pack(weight, name="layer")
    values = 64 * 2048
    assert packed.held_bytes == values * 20 // 8 + values // 32 * 2 + 4 * 64 + 4 * 3


def test_three_values_in_a_group_are_refused_with_the_layers_name():
    weight = two_four(3, 64)
    weight[2, 60:63] = 1.0
    with pytest.raises(Unsupported, match=r"model\.layers\.3\.mlp\.up_proj is not 2:4") as refused:
        layout.pack(weight, name="model.layers.3.mlp.up_proj")
    assert refused.value.reason is Reason.FORMAT


def test_inputs_that_groups_of_four_do_not_divide_are_refused():
    with pytest.raises(Unsupported, match="has 6 inputs") as refused:
        layout.pack(torch.zeros(2, 6, dtype=torch.float16), name="layer")
    assert refused.value.reason is Reason.SHAPE


@pytest.mark.parametrize("pack", (layout.pack, gaps.pack))
def test_a_dtype_without_16_bits_is_refused(pack):
    with pytest.raises(Unsupported, match="float32") as refused:
        pack(torch.zeros(2, 8), name="layer")
    assert refused.value.reason is Reason.DTYPE


def test_a_row_of_more_inputs_than_are_counted_is_refused():
    with pytest.raises(Unsupported, match="65537 inputs") as refused:
        gaps.pack(torch.zeros(1, 2**16 + 1, dtype=torch.float16), name="layer")
    assert refused.value.reason is Reason.SHAPE


def test_the_last_input_of_the_longest_row_comes_back():
    weight = torch.zeros(3, 2**16, dtype=torch.float16, device=DEVICE)
    weight[1, -1] = 2.0
    weight[2, ::5] = 1.0
    assert torch.equal(gaps.unpack(gaps.pack(weight, name="layer")), weight)
