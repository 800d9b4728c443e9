"""How many heads and channels stay: the authors' arithmetic, and the share of parameters that is really removed."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from harness.architectures.blocks import decoder_blocks
from harness.errors import Unsupported
from harness.methods.llm_pruner.widths import (
    BlockWidths,
    ModelSize,
    measure,
    nearest_widths,
    official_layers,
    official_widths,
    step_widths,
)

LLAMA_7B = ModelSize(
    total=6_738_415_616,
    blocks=32,
    block=BlockWidths(heads=32, channels=11008),
    head_parameters=4 * 4096 * 128,
    channel_parameters=3 * 4096,
    head_size=128,
)
LLAMA_3_8B = ModelSize(
    total=8_030_261_248,
    blocks=32,
    block=BlockWidths(heads=8, channels=14336),
    head_parameters=4096 * 128 * (4 + 1 + 1 + 4),
    channel_parameters=3 * 4096,
    head_size=128,
)


def test_the_sizes_of_llama_7b_come_from_its_shapes_alone():
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig())
    assert measure(model, decoder_blocks(model)) == LLAMA_7B
    assert LLAMA_7B.multiple == 128


@pytest.mark.parametrize(
    ("flag", "first", "last", "parameters"),
    [
        (0.25, 4, 30, 5_422_977_024),
        (0.5, 3, 31, 3_905_163_264),
        (0.6, 3, 31, 3_350_188_032),
    ],
)
def test_the_official_flag_leaves_the_parameters_that_the_authors_program_leaves(flag, first, last, parameters):
    widths = official_widths(LLAMA_7B, flag)
    assert LLAMA_7B.total - LLAMA_7B.removed([widths] * (last - first)) == parameters


@pytest.mark.parametrize(
    ("blocks", "layers"),
    [(32, range(4, 30)), (40, range(5, 38)), (80, range(10, 75)), (24, range(3, 22)), (12, range(2, 11))],
)
def test_the_authors_range_of_layers_scales_with_the_depth(blocks, layers):
    assert official_layers(blocks) == layers


@pytest.mark.parametrize("size", [LLAMA_7B, LLAMA_3_8B], ids=["multi-head", "grouped"])
@given(share=st.floats(0.02, 0.8))
def test_the_removed_share_is_as_near_as_whole_heads_and_multiples_allow(size, share):
    widths = nearest_widths(size, share, 32, multiple=128, allowed_heads=range(1, size.block.heads + 1))
    assert widths.channels % 128 == 0
    half_step = 32 * 128 * size.channel_parameters / size.total / 2
    assert abs(size.removed([widths] * 32) / size.total - share) <= half_step + 1e-9
    kept_heads, kept_channels = widths.heads / size.block.heads, widths.channels / size.block.channels
    assert abs(kept_heads - kept_channels) < 1.5 / size.block.heads + 0.05


def test_no_other_multiple_with_the_same_or_the_next_number_of_heads_is_nearer():
    widths = nearest_widths(LLAMA_7B, 0.2, 32, multiple=128, allowed_heads=range(1, 33))

    def distance(heads, channels):
        return abs(LLAMA_7B.removed([BlockWidths(heads, channels)] * 32) / LLAMA_7B.total - 0.2)

    others = [distance(heads, 128 * count) for heads in (25, 26) for count in range(1, 87)]
    assert distance(widths.heads, widths.channels) <= min(others)
    assert widths.heads in (25, 26)


def test_where_heads_cannot_go_the_channels_make_up_the_whole_share():
    widths = nearest_widths(LLAMA_7B, 0.2, 32, multiple=128, allowed_heads=(32,))
    assert widths.heads == 32
    assert LLAMA_7B.removed([widths] * 32) / LLAMA_7B.total == pytest.approx(0.2, abs=0.004)
    with pytest.raises(Unsupported, match=r"70\.0% .* at most 63\.5%"):
        nearest_widths(LLAMA_7B, 0.7, 32, multiple=128, allowed_heads=(32,))


def test_heads_that_must_divide_the_hidden_size_are_taken_from_the_allowed_ones():
    widths = nearest_widths(LLAMA_7B, 0.3, 32, multiple=128, allowed_heads=(1, 2, 4, 8, 16, 32))
    assert widths.heads in (16, 32)
    assert LLAMA_7B.removed([widths] * 32) / LLAMA_7B.total == pytest.approx(0.3, abs=0.004)


@pytest.mark.parametrize(("channels", "multiple"), [(11008, 128), (2048, 128), (1536, 64), (576, 32), (48, 2), (8, 1)])
def test_narrow_models_are_cut_in_finer_steps(channels, multiple):
    size = ModelSize(1000, 1, BlockWidths(4, channels), 1, 1, 8)
    assert size.multiple == multiple


@given(st.integers(1, 20), st.integers(1, 32), st.integers(1, 11008))
def test_several_steps_narrow_the_model_steadily_down_to_the_final_widths(steps, heads, channels):
    final = BlockWidths(heads, channels)
    way = [step_widths(LLAMA_7B, final, step, steps) for step in range(1, steps + 1)]
    assert way[-1] == final
    both = [LLAMA_7B.block, *way]
    assert all(a.heads >= b.heads and a.channels >= b.channels for a, b in itertools.pairwise(both))
