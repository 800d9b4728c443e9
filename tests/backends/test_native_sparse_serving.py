"""Which linears of a pruned model are computed from packed weights, and that they compute the same."""

import copy

import pytest
import torch

from tests.backends.sparse_weights import DEVICE, need_triton

need_triton()

from harness.architectures.blocks import decoder_blocks  # noqa: E402
from harness.backends.native import sparse_serving  # noqa: E402
from harness.backends.native.fused_blocks import fuse  # noqa: E402
from harness.kernels.sparse.choice import ChoiceTable, Path, Timing, guess  # noqa: E402
from harness.kernels.sparse.dispatch import SparseLinear  # noqa: E402
from harness.kernels.sparse.launch import SparseWeight  # noqa: E402
from harness.kernels.sparse.two_four import TwoFourWeight  # noqa: E402
from harness.profiling.memory import tensor_bytes  # noqa: E402
from tests.support.small_checkpoints import small_model  # noqa: E402 - after the choice of the interpreter


def pruned(pattern: str) -> torch.nn.Module:
    model = small_model("llama").to(DEVICE, torch.float16)
    with torch.no_grad():
        for block in decoder_blocks(model):
            for linear in block.linears:
                weight = linear.module.weight
                groups = weight.view(weight.shape[0], -1, 4)
                smallest = groups.abs().argsort(-1)[..., :2]
                if pattern == "2:4" or not linear.name.endswith("down_proj"):
                    groups.scatter_(-1, smallest, 0)
    fuse(model)
    return model


def times(monkeypatch: pytest.MonkeyPatch, kernel: float, dense: float) -> list[tuple[int, ...]]:
    """Let every measurement find these microseconds; returns the shapes that were measured."""
    measured: list[tuple[int, ...]] = []

    def measure(weight: SparseWeight, *, tokens: list[int], cusparselt: bool) -> ChoiceTable:
        assert cusparselt is isinstance(weight, TwoFourWeight)
        assert tokens == sorted({*tokens, 64})
        measured.append((weight.rows, weight.in_features))
        found = [(path, count) for count in tokens for path in (Path.KERNEL, Path.EXPAND, Path.DENSE)]
        timings = tuple(Timing(count, path, dense if path is Path.DENSE else kernel) for path, count in found)
        return ChoiceTable(guess(weight).choices, timings)

    monkeypatch.setattr(sparse_serving, "measure", measure)
    return measured


def modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    return list(model.model.layers)


@pytest.mark.parametrize("pattern", ["2:4", "unstructured"])
def test_faster_layers_are_replaced_and_compute_the_same(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    measured = times(monkeypatch, kernel=1.0, dense=1.5)
    model = pruned(pattern)
    expected = copy.deepcopy(model)
    notes = sparse_serving.use_sparse(modules(model), pattern=pattern, tokens=(1,), prompt_tokens=64)
    replaced = [name for name, part in model.named_modules() if isinstance(part, SparseLinear)]
    assert len(replaced) == (8 if pattern == "2:4" else 6)
    assert notes[0] == f"{len(replaced)} of 8 linears computed from packed sparse weights ({pattern})"
    assert "as fast as dense, by tokens at once: 1.50x at 1 (kernel)" in notes[1]
    assert len(measured) == len(set(measured)) == len(notes) - 1
    layers = [part for part in model.modules() if isinstance(part, SparseLinear)]
    saved_bytes = sum(2 * layer.in_features * layer.out_features - layer.held_bytes for layer in layers)
    assert tensor_bytes(model) == tensor_bytes(expected) - saved_bytes
    tokens = torch.arange(6, device=DEVICE)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, expected(tokens).logits, rtol=2e-2, atol=2e-2)


def test_layers_that_would_be_slower_stay_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, kernel=2.0, dense=1.0)
    model = pruned("2:4")
    notes = sparse_serving.use_sparse(modules(model), pattern="2:4", tokens=(1,), prompt_tokens=64)
    assert not any(isinstance(part, SparseLinear) for part in model.modules())
    assert notes[0].startswith("0 of 8 linears")
