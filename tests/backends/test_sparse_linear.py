"""A sparse layer multiplies any number of tokens, each the way its table says."""

import pytest
import torch

from tests.backends.sparse_weights import need_triton, relative_error, tokens_of, two_four, unstructured

need_triton()

from harness.errors import Unsupported  # noqa: E402
from harness.kernels.scratch import Scratch  # noqa: E402 - after the choice of the interpreter
from harness.kernels.sparse import choice, gaps  # noqa: E402
from harness.kernels.sparse import two_four as layout  # noqa: E402
from harness.kernels.sparse.choice import Choice, ChoiceTable, Path, Timing, guess, measure  # noqa: E402
from harness.kernels.sparse.dispatch import SparseLinear  # noqa: E402
from harness.kernels.sparse.launch import Launch, candidates, most_tokens, multiply  # noqa: E402


@pytest.mark.parametrize("count", (1, 5, 16, 17, 70))
def test_a_layer_computes_the_dense_product_for_any_number_of_tokens(count):
    weight = two_four(12, 256)
    layer = SparseLinear(layout.pack(weight, name="layer"), None, Scratch())
    x = tokens_of(count, 256)
    assert relative_error(layer(x), weight, x) < 1e-3


@pytest.mark.parametrize("count", (1, 3, 20))
def test_the_bias_is_added_on_every_path(count):
    weight, bias = unstructured(10, 64), tokens_of(1, 10, seed=3)[0]
    layer = SparseLinear(gaps.pack(weight, name="layer"), bias, Scratch())
    x = tokens_of(count, 64)
    torch.testing.assert_close(layer(x), x @ weight.T + bias, rtol=5e-3, atol=5e-2)


def test_leading_dimensions_are_kept():
    layer = SparseLinear(layout.pack(two_four(12, 64), name="layer"), None, Scratch())
    assert layer(tokens_of(6, 64).view(2, 3, 64)).shape == (2, 3, 12)


def test_tracing_sees_one_operator_in_place_of_a_layer():
    layer = SparseLinear(layout.pack(two_four(12, 64), name="layer"), None, Scratch())
    x = tokens_of(2, 64).view(1, 2, 64)
    exported = torch.export.export(layer, (x,))
    called = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert called == [torch.ops.llmcbench.opaque_linear.default]
    assert torch.equal(exported.module()(x), layer.multiply(x))


def test_layers_share_one_scratch_as_large_as_the_largest_of_them():
    shared = Scratch()
    weights = [two_four(rows, 64, seed=rows) for rows in (8, 32, 16)]
    layers = [SparseLinear(layout.pack(weight, name="layer"), None, shared) for weight in weights]
    assert shared.held_bytes == 0
    x = tokens_of(40, 64)
    for layer, weight in zip(layers, weights, strict=True):
        assert relative_error(layer(x), weight, x) < 1e-3
        assert shared.held_bytes == 32 * 64 * 2
        assert layer.held_bytes == layout.pack(weight, name="layer").held_bytes


def test_a_table_covers_every_number_of_tokens():
    launch = Launch(16)
    table = ChoiceTable((Choice(1, Path.KERNEL, launch), Choice(8, Path.KERNEL), Choice(64, Path.EXPAND)))
    assert table.choose(1).launch is launch
    assert table.choose(2).tokens == table.choose(8).tokens == 8
    assert table.choose(9).path is table.choose(10_000).path is Path.EXPAND


def test_a_speed_up_is_the_dense_time_over_that_of_the_chosen_path():
    timings = (Timing(1, Path.DENSE, 9.0), Timing(1, Path.KERNEL, 6.0, Launch(16)), Timing(1, Path.EXPAND, 20.0))
    table = ChoiceTable((Choice(1, Path.KERNEL, Launch(16)), Choice(8, Path.EXPAND)), timings)
    assert table.speed_up(1) == 1.5
    assert table.speed_up(8) is None


def test_the_fastest_path_is_chosen_for_each_number_of_tokens(monkeypatch):
    packed = layout.pack(two_four(8, 64), name="layer")
    monkeypatch.setattr(choice, "copies_beyond_cache", lambda held_bytes, device: 2)
    monkeypatch.setattr(choice, "microseconds_each", _clock)
    table = measure(packed, tokens=(64, 1, 16), cusparselt=False)
    assert [(row.tokens, row.path) for row in table.choices] == [
        (1, Path.KERNEL),
        (16, Path.KERNEL),
        (64, Path.EXPAND),
    ]
    assert table.speed_up(1) == 6.0
    assert table.choose(1).launch == candidates(packed, 1)[-1]
    few = measure(packed, tokens=(1, 16))
    assert [(row.tokens, row.path) for row in few.choices[2:]] == [(17, Path.EXPAND)]


def test_a_path_that_cannot_be_had_is_left_out_with_its_reason(monkeypatch):
    monkeypatch.setattr(choice, "copies_beyond_cache", lambda held_bytes, device: 2)
    monkeypatch.setattr(choice, "microseconds_each", _clock)
    table = measure(gaps.pack(unstructured(8, 64), name="layer"), tokens=(1,), cusparselt=True)
    assert table.notes == ("cuSPARSELt left out: it multiplies 2:4 weights alone",)
    assert not table.needs_cusparselt


def _clock(calls):
    """A kernel takes a microsecond a token, and half of that with its last launch; expanding takes 20, dense 3."""
    call = calls[0]
    assert call().shape[-1] == 8
    if call.func is multiply:
        packed, x, launch = call.args
        return x.shape[0] * (0.5 if launch == candidates(packed, x.shape[0])[-1] else 1.0)
    return 3.0 if call.func is torch.nn.functional.linear else 20.0


def test_a_guess_says_that_nothing_was_measured():
    table = guess(layout.pack(two_four(8, 64), name="layer"))
    assert table.notes == ("not measured",)
    assert table.timings == ()
    assert {choice.path for choice in table.choices if choice.tokens <= 16} == {Path.KERNEL}


def test_cusparselt_is_refused_for_weights_without_its_pattern():
    packed = gaps.pack(unstructured(8, 64), name="layer")
    with pytest.raises(Unsupported, match="2:4 weights alone"):
        SparseLinear(packed, None, Scratch(), ChoiceTable((Choice(64, Path.CUSPARSELT),)))


@pytest.mark.gpu
@pytest.mark.parametrize("pack", (layout.pack, gaps.pack))
def test_a_measured_table_has_every_path_and_a_captured_layer_repeats_its_result(pack):
    weight = two_four(1024, 1024)
    packed = pack(weight, name="layer")
    table = measure(packed, tokens=(1, 16, 256))
    measured = {(timing.tokens, timing.path) for timing in table.timings}
    assert {(tokens, path) for tokens in (1, 16, 256) for path in (Path.EXPAND, Path.DENSE)} <= measured
    with_kernel = {tokens for tokens, path in measured if path is Path.KERNEL}
    assert with_kernel == {tokens for tokens in (1, 16, 256) if tokens <= most_tokens(packed)}
    layer = SparseLinear(packed, None, Scratch(), table)
    x = tokens_of(1, 1024)
    expected = layer(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, expected)
