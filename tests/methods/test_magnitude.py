"""Magnitude pruning against its definition, one weight at a time, by whole requests."""

import pytest
import torch

from harness.architectures.blocks import decoder_blocks, linears_of
from harness.contract import Reason
from harness.errors import BadRequest, Unsupported
from harness.methods.magnitude import smallest
from tests.methods.compress_requests import Requests, tensors_of
from tests.support.tiny_checkpoints import FAMILIES, publish_model, tiny_model


@pytest.fixture
def compress(tmp_path):
    return Requests("magnitude", tmp_path)


def reference(weight, target):
    """Which weights go: a ratio ranks all weights of the matrix, a pattern those of each run of m in a row."""
    rows, columns = weight.shape
    places = [(row, column) for row in range(rows) for column in range(columns)]
    if isinstance(target, float):
        groups, count = [places], int(rows * columns * target)
    else:
        count, length = target
        groups = [places[start : start + length] for start in range(0, len(places), length)]
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    for group in groups:
        for place in sorted(group, key=lambda place: abs(float(weight[place])))[:count]:
            mask[place] = True
    return mask


@pytest.mark.parametrize(
    ("family", "setting"),
    [*((family, "50%") for family in FAMILIES), ("llama", "12.5%"), ("llama", "2:4"), ("llama", "4:8")],
)
def test_the_smallest_weights_of_each_linear_go_and_nothing_else_changes(tmp_path, compress, family, setting):
    """Which linears there are is a matter of the family, which of their weights go one of the setting."""
    model = tiny_model(family)
    publish_model(tmp_path / "model", model)
    result, artifact, _ = compress(setting)
    target = {"50%": 0.5, "12.5%": 0.125, "2:4": (2, 4), "4:8": (4, 8)}[setting]
    before, after = tensors_of(tmp_path / "model"), tensors_of(artifact)
    pruned = {f"{linear.name}.weight" for linear in linears_of(decoder_blocks(model))}
    assert {name for name in before if not torch.equal(before[name], after[name])} == pruned
    for name in pruned:
        gone = reference(before[name], target) if before[name].numel() < 2048 else smallest(before[name], target)
        assert torch.equal(after[name], before[name].masked_fill(gone, 0))
    ratio = target if isinstance(target, float) else 0.5
    assert (result.artifact.sparsity.measured, result.artifact.calibrated_on) == (ratio, None)
    assert [layer.sparsity for layer in result.layers] == [ratio] * len(pruned)


def test_a_ratio_is_one_threshold_for_the_linear_so_that_rows_differ():
    torch.manual_seed(0)
    weight = torch.randn(8, 64) * torch.linspace(0.5, 2, 8).unsqueeze(1)
    gone = smallest(weight, 0.5)
    assert weight[gone].abs().max() <= weight[~gone].abs().min()
    assert gone.sum() == weight.numel() // 2
    counts = gone.sum(dim=1).tolist()
    assert counts[0] > 40 > 25 > counts[-1]


def test_of_equal_magnitudes_no_more_go_than_were_asked_for():
    weight = torch.tensor([[1.0, -1.0, 1.0, 1.0], [2.0, 1.0, -1.0, 0.5]])
    assert smallest(weight, 0.5).tolist() == [[True, True, True, False], [False, False, False, True]]
    assert smallest(weight, (2, 4)).tolist() == [[True, True, False, False], [False, True, False, True]]


def test_there_are_no_options_and_no_quantizations(compress):
    with pytest.raises(BadRequest, match="magnitude has no option 'variant'"):
        compress("50%", variant=True)
    with pytest.raises(Unsupported, match="magnitude prunes, so it has no setting 'W4A16'"):
        compress("W4A16")


def test_a_pattern_that_does_not_divide_an_input_size_is_refused(tmp_path, compress):
    publish_model(tmp_path / "model", tiny_model("llama"))
    with pytest.raises(Unsupported, match=r"21 linear\(s\)") as refusal:
        compress("2:5")
    assert refusal.value.reason is Reason.SHAPE
