"""Linears computed from integer codes give what their dequantized weights give."""

from functools import partial

import pytest
import torch

from tests.backends.sparse_weights import DEVICE, need_triton, relative_error, tokens_of

need_triton()

from harness.backends.native import integer_serving  # noqa: E402 - after the choice of the interpreter
from harness.errors import BadRequest  # noqa: E402
from harness.kernels.integer import choice  # noqa: E402
from harness.kernels.integer.choice import guess, measure  # noqa: E402
from harness.kernels.integer.launch import Launch, candidates, expand, multiply  # noqa: E402
from harness.kernels.integer.linears import CodesLinear  # noqa: E402
from harness.kernels.integer.weights import PackedCodes, pack, stack  # noqa: E402
from harness.kernels.scratch import Scratch  # noqa: E402
from harness.quantization.weight import QuantizedWeight  # noqa: E402


def quantized(rows: int, inputs: int, *, bits: int = 4, group: int = 32, symmetric: bool = True) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(rows + inputs + bits)
    groups = inputs // group
    middle = torch.full((rows, groups), 2 ** (bits - 1), dtype=torch.uint8)
    drawn = torch.randint(2**bits, (rows, groups), generator=generator, dtype=torch.uint8)
    return QuantizedWeight(
        codes=torch.randint(2**bits, (rows, inputs), generator=generator, dtype=torch.uint8).to(DEVICE),
        scale=(torch.rand(rows, groups, generator=generator) * 0.01 + 0.001).to(DEVICE, torch.float16),
        zero=(middle if symmetric else drawn).to(DEVICE),
        bits=bits,
        symmetric=symmetric,
    )


KINDS = [(4, 32), (4, 96), (8, 64), (8, 192)]
IN_CHECK = {
    (1, 4, 32, True),
    (3, 4, 96, False),
    (17, 4, 32, True),
    (1, 8, 64, False),
    (3, 8, 192, True),
    (17, 8, 64, False),
}
"""Every two of tokens, bits and sign together, and every group."""


@pytest.mark.parametrize(
    ("tokens", "bits", "group", "symmetric"),
    [
        pytest.param(*one, marks=() if one in IN_CHECK else pytest.mark.slow)
        for one in ((tokens, *kind, sign) for tokens in (1, 3, 17) for kind in KINDS for sign in (True, False))
    ],
)
def test_every_launch_computes_the_product_with_the_dequantized_weight(
    tokens: int, bits: int, group: int, symmetric: bool
) -> None:
    weight = quantized(20, 192, bits=bits, group=group, symmetric=symmetric)
    packed, x = pack(weight, torch.float16), tokens_of(tokens, 192)
    launches = candidates(packed, tokens)
    assert launches
    for launch in launches:
        y = multiply(packed, x, launch)
        assert relative_error(y, weight.dequantize(torch.float32), x) < 1e-3, launch


@pytest.mark.parametrize("bits", [4, 8])
def test_expansion_is_the_dequantized_weight_to_the_last_bit(bits: int) -> None:
    weight = quantized(20, 192, bits=bits, symmetric=False)
    scratch = torch.empty(20 * 192, dtype=torch.float16, device=DEVICE)
    assert torch.equal(expand(pack(weight, torch.float16), scratch), weight.dequantize(torch.float16))


def test_more_tokens_than_the_kernel_takes_are_refused() -> None:
    packed = pack(quantized(8, 64), torch.float16)
    with pytest.raises(BadRequest, match="64 inputs"):
        multiply(packed, tokens_of(65, 64), candidates(packed, 2)[0])


@pytest.mark.parametrize("tokens", [1, 5, 70])
def test_a_layer_adds_its_bias_however_many_tokens_there_are(tokens: int) -> None:
    weight, bias = quantized(12, 64), tokens_of(1, 12, seed=3)[0]
    layer = CodesLinear(pack(weight, torch.float16), bias, Scratch())
    x = tokens_of(tokens, 64)
    expected = x.double() @ weight.dequantize(torch.float32).double().T + bias.double()
    torch.testing.assert_close(layer(x.view(1, tokens, 64))[0].double(), expected, rtol=5e-3, atol=5e-3)


def test_stacked_weights_have_the_rows_of_their_parts_in_order() -> None:
    parts = [quantized(rows, 64) for rows in (4, 8, 6)]
    whole = stack(parts).dequantize(torch.float16)
    assert torch.equal(whole, torch.cat([part.dequantize(torch.float16) for part in parts]))


def test_a_guess_covers_what_the_kernels_take_and_nothing_beyond() -> None:
    choices = guess(pack(quantized(8, 64), torch.float16))
    assert all(choices.launch(tokens) is not None for tokens in (1, 2, 64))
    assert choices.launch(65) is None
    assert choices.speed_up(1) is None


def test_tracing_sees_one_operator_and_the_bias_beside_it() -> None:
    layer = CodesLinear(pack(quantized(12, 64), torch.float16), tokens_of(1, 12, seed=3)[0], Scratch())
    x = tokens_of(2, 64).view(1, 2, 64)
    exported = torch.export.export(layer, (x,))
    called = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert called == [torch.ops.llmcbench.opaque_linear.default, torch.ops.aten.add.Tensor]
    assert torch.equal(exported.module()(x), layer(x))


def fake_times(monkeypatch: pytest.MonkeyPatch, packed: PackedCodes) -> dict[int, Launch]:
    """Let these launches be the fastest, by the number of tokens; returns them. At 32 tokens no kernel pays."""
    best = {tokens: candidates(packed, tokens)[place] for tokens, place in ((1, -1), (4, -1), (16, 0), (32, 0))}

    def microseconds(calls: list[partial[torch.Tensor]]) -> float:
        if calls[0].func is not multiply:
            return 3.0 if calls[0].func is torch.nn.functional.linear else 6.0
        _, x, launch = calls[0].args
        tokens = x.shape[0]
        return tokens * 0.25 + (0.5 if launch == best[tokens] else 1.0)

    monkeypatch.setattr(choice, "copies_beyond_cache", lambda held_bytes, device: 2)
    monkeypatch.setattr(choice, "microseconds_each", microseconds)
    return best


def test_each_number_of_tokens_has_the_launch_that_was_fastest_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(quantized(600, 512, group=64), torch.float16)
    best = fake_times(monkeypatch, packed)
    assert best[4] != best[16]
    table = measure(packed, torch.float16, tokens=(32, 1, 4, 16))
    assert [table.launch(tokens) for tokens in (1, 4, 16)] == [best[1], best[4], best[16]]
    assert table.launch(2) == table.launch(3) == best[4]
    assert table.launch(17) is table.launch(32) is None
    assert table.speed_up(16) == 3.0 / 4.5


def test_notes_name_what_was_chosen_and_how_fast_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(quantized(600, 512, group=64), torch.float16)
    best = fake_times(monkeypatch, packed)
    model = torch.nn.Sequential(*(CodesLinear(packed, None, Scratch()) for _ in range(2)))
    (note,) = integer_serving.measure_choices(model, torch.float16, (1, 4, 32))
    assert note == (
        f"600 x 512 as fast as dense, by tokens at once: 4.00x at 1 ({best[1]}), 2.00x at 4 ({best[4]}),"
        " 0.50x at 32 (made dense)"
    )
    assert "rows, " in str(best[1])
    assert str(best[1]) != str(best[4])
    assert all(layer.choices.launch(4) == best[4] for layer in model)
