"""The sparse kernels compute the dense product, whatever the shape, the number of tokens and the launch."""

import pytest
import torch

from tests.backends.sparse_weights import DEVICE, need_triton, relative_error, tokens_of, two_four, unstructured

need_triton()

from harness.errors import BadRequest  # noqa: E402
from harness.kernels.sparse import gaps  # noqa: E402 - after the choice of the interpreter
from harness.kernels.sparse import two_four as layout  # noqa: E402
from harness.kernels.sparse.launch import Launch, candidates, dense_elements, expand, multiply  # noqa: E402

SHAPES = ((33, 1040), (5, 4), (130, 516), (1, 2052))
ODD_INPUTS = (7, 45)
BFLOAT16_ROUNDING = 2**-7
needs_dot = pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter has no bfloat16 matrix product")


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        pytest.param(shape, count, marks=() if rank == place or shape == (5, 4) else pytest.mark.slow)
        for place, shape in enumerate(SHAPES)
        for rank, count in enumerate((7, 17, 2, 1))
    ],
)
def test_a_two_four_product_is_the_dense_one(shape, count):
    weight, x = two_four(*shape), tokens_of(count, shape[1])
    packed = layout.pack(weight, name="layer")
    y = multiply(packed, x, candidates(packed, count)[0])
    assert y.shape == (count, shape[0])
    assert y.dtype is torch.float16
    assert relative_error(y, weight, x) < 1e-3


@pytest.mark.parametrize("shape", (*SHAPES, ODD_INPUTS))
def test_a_gap_product_is_the_dense_one(shape):
    weight, x = unstructured(*shape), tokens_of(1, shape[1])
    packed = gaps.pack(weight, name="layer")
    y = multiply(packed, x, candidates(packed, 1)[0])
    assert y.shape == (1, shape[0])
    assert y.dtype is torch.float16
    assert relative_error(y, weight, x) < 1e-3


def test_rows_of_any_lengths_are_multiplied_and_expanded():
    weight = unstructured(70, 300, zeros=0.0)
    kept = torch.rand(70, 300, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    weight = weight.masked_fill(kept > torch.linspace(0, 1, 70, device=DEVICE).unsqueeze(1), 0)
    packed, x = gaps.pack(weight, name="layer"), tokens_of(1, 300)
    assert relative_error(multiply(packed, x, Launch(4)), weight, x) < 1e-3
    assert torch.equal(expand(packed, torch.empty(dense_elements(packed), dtype=x.dtype, device=DEVICE)), weight)


@pytest.mark.parametrize("count", (1, 3))
def test_every_launch_that_is_measured_computes_the_same(count):
    dense = two_four(20, 516)
    x = tokens_of(count, 516)
    for packed in (layout.pack(dense, name="layer"), gaps.pack(dense, name="layer")):
        launches = candidates(packed, count)
        assert launches or (count > 1 and isinstance(packed, gaps.GapWeight))
        for launch in launches:
            assert relative_error(multiply(packed, x, launch), dense, x) < 1e-3, launch


@pytest.mark.parametrize("splits", (1, 2, 3, 100))
def test_splitting_the_inputs_changes_nothing(splits):
    dense, x = two_four(20, 2052), tokens_of(4, 2052)
    y = multiply(layout.pack(dense, name="layer"), x, Launch(4, 64, splits))
    assert relative_error(y, dense, x) < 1e-3


@pytest.mark.parametrize("pack", (layout.pack, gaps.pack))
def test_one_bfloat16_token_is_as_exact_as_its_rounding(pack):
    dense, x = two_four(40, 516, dtype=torch.bfloat16), tokens_of(1, 516, dtype=torch.bfloat16)
    packed = pack(dense, name="layer")
    assert relative_error(multiply(packed, x, candidates(packed, 1)[0]), dense, x) < BFLOAT16_ROUNDING


@needs_dot
def test_some_bfloat16_tokens_are_as_exact_as_their_rounding():
    dense, x = two_four(40, 516, dtype=torch.bfloat16), tokens_of(8, 516, dtype=torch.bfloat16)
    packed = layout.pack(dense, name="layer")
    assert relative_error(multiply(packed, x, candidates(packed, 8)[0]), dense, x) < BFLOAT16_ROUNDING


@pytest.mark.parametrize("zeros", (0.0, 0.9, 1.0))
def test_any_share_of_zeros_can_be_multiplied(zeros):
    weight, x = unstructured(9, 260, zeros=zeros), tokens_of(1, 260)
    packed = gaps.pack(weight, name="layer")
    y = multiply(packed, x, candidates(packed, 1)[0])
    torch.testing.assert_close(y.double(), x.double() @ weight.double().T, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("shape", "dtype"), [*((shape, torch.float16) for shape in SHAPES), (SHAPES[1], torch.bfloat16)]
)
def test_an_expanded_weight_is_the_dense_one_bit_for_bit(shape, dtype):
    weight = two_four(*shape, dtype=dtype)
    for packed in (layout.pack(weight, name="layer"), gaps.pack(weight, name="layer")):
        scratch = torch.full((dense_elements(packed) + 3,), torch.nan, dtype=dtype, device=DEVICE)
        assert torch.equal(expand(packed, scratch).view(torch.int16), weight.view(torch.int16))
        assert scratch[-3:].isnan().all()


def test_inputs_that_groups_of_four_do_not_divide_are_expanded_as_well():
    weight = unstructured(*ODD_INPUTS)
    packed = gaps.pack(weight, name="layer")
    scratch = torch.empty(dense_elements(packed), dtype=torch.float16, device=DEVICE)
    assert torch.equal(expand(packed, scratch), weight)


def test_tokens_that_lie_anywhere_in_memory_are_read_right():
    weight = two_four(6, 64)
    packed = layout.pack(weight, name="layer")
    store = tokens_of(1, 300)[0]
    x = store[2:66].view(1, 64)
    assert relative_error(multiply(packed, x, candidates(packed, 1)[0]), weight, x) < 1e-3
    several = store[:256].view(64, 4).T
    assert relative_error(multiply(packed, several, candidates(packed, 4)[0]), weight, several) < 1e-3


@pytest.mark.parametrize("x", (torch.zeros(1, 64), torch.zeros(1, 60).half(), torch.zeros(65, 64).half()))
def test_other_dtypes_widths_and_too_many_tokens_are_refused(x):
    packed = layout.pack(two_four(6, 64), name="layer")
    with pytest.raises(BadRequest, match="was given"):
        multiply(packed, x.to(DEVICE), Launch(4))
