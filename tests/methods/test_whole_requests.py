"""Methods by their whole request against plain references: statistic, root, order, damping and sequence are theirs.

The reference computes the first block of a trained model from the same calibration tokens, in float64, linear by linear
and column by column. Each case also has mistakes: references that are wrong in one place, which must not be matched.
AWQ and SmoothQuant are held so in their own `*_reference` tests, `magnitude` and `rtn` in theirs.
"""

import pytest
import torch

from harness.calibration.sampling import draw_calibration
from harness.contract import Device
from harness.models.loading import load_model
from tests.methods.compress_requests import Requests, parameters_of, tensors_of
from tests.support.zoo import zoo_checkpoint

BLOCK = "model.layers.0"
GROUPS = (
    ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"),
    ("self_attn.o_proj",),
    ("mlp.up_proj", "mlp.gate_proj"),
    ("mlp.down_proj",),
)
LENGTH, GROUP_SIZE, BLOCKSIZE = 32, 32, 128


class Dense:
    """The uncompressed model with the request's calibration text; what is put into it feeds what follows."""

    def __init__(self, folder, method):
        loaded = load_model(folder / "model", Device(threads=1))
        self.model = loaded.model
        asked = parameters_of(method, "50%", length=LENGTH).calibration
        self.sequences = draw_calibration(folder / "c4", loaded.tokenizer, asked).sequences

    def weight(self, linear):
        return self.model.get_submodule(f"{BLOCK}.{linear}").weight

    def inputs(self, linear):
        """What the linear reads of each sequence, float64 [tokens, in_features]."""
        read = []
        module = self.model.get_submodule(f"{BLOCK}.{linear}")
        handle = module.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0][0].double()))
        for sequence in self.sequences:
            self.model(sequence.unsqueeze(0))
        handle.remove()
        return read


def compressed(dense, compress, *, sequential=False):
    """The weights of the first block as `compress(weight, inputs)` leaves them, by the linears' names."""
    made = {}
    if not sequential:
        return {name: compress(dense.weight(name).double(), dense.inputs(name)) for each in GROUPS for name in each}
    for group in GROUPS:
        inputs = dense.inputs(group[0])
        made |= {name: compress(dense.weight(name).double(), inputs) for name in group}
        for name in group:
            dense.weight(name).copy_(made[name])
    return made


def wanda(weight, inputs, *, root=True):
    norm = sum(one.square().sum(0) for one in inputs) / len(inputs)
    scores = weight.abs() * (norm.sqrt() if root else norm)
    gone = scores.argsort(dim=1, stable=True)[:, : weight.shape[1] // 2]
    return weight.scatter(1, gone, 0)


def hessian(inputs, damping, order=None):
    """The damped Hessian's inverse, as its upper Cholesky factor."""
    matrix = 2 / len(inputs) * sum(one.T @ one for one in inputs)
    matrix += damping * matrix.diagonal().mean() * torch.eye(len(matrix)).double()
    if order is not None:
        matrix = matrix[order][:, order]
    return torch.linalg.cholesky(torch.linalg.inv(matrix), upper=True)


def sparsegpt(weight, inputs, *, damping=0.01, blocksize=BLOCKSIZE, second_order=True):
    weight, factor = weight.clone(), hessian(inputs, damping)
    for start in range(0, weight.shape[1], blocksize):
        stop = min(start + blocksize, weight.shape[1])
        scale = factor.diagonal()[start:stop] if second_order else 1
        scores = (weight[:, start:stop] / scale).square()
        gone = scores <= scores.flatten().sort().values[scores.numel() // 2]
        for column in range(start, stop):
            kept = weight[:, column].masked_fill(gone[:, column - start], 0)
            error = (weight[:, column] - kept) / factor[column, column]
            weight[:, column:] -= error.unsqueeze(1) * factor[column, column:]
            weight[:, column] = kept
    return weight


def gptq(weight, inputs, *, damping=0.01, order="descending", static=True):
    weight, columns = weight.clone(), weight.shape[1]
    magnitude = sum(one.square().sum(0) for one in inputs)
    by_activations = magnitude.argsort(descending=order == "descending", stable=True)
    places = by_activations if order != "none" else torch.arange(columns)
    factor = hessian(inputs, damping, places)
    scale, zero = (torch.empty(len(weight), columns).double() for _ in range(2))
    for start in range(0, columns, GROUP_SIZE):
        if static:
            fit(weight, slice(start, start + GROUP_SIZE), scale, zero)
    weight, made = weight[:, places], torch.empty_like(weight)
    scale, zero = scale[:, places], zero[:, places]
    for column in range(columns):
        if not static and column % GROUP_SIZE == 0:
            fit(weight, slice(column, column + GROUP_SIZE), scale, zero)
        codes = ((weight[:, column] / scale[:, column]).round() + zero[:, column]).clamp(0, 15)
        made[:, column] = (codes - zero[:, column]) * scale[:, column]
        error = (weight[:, column] - made[:, column]) / factor[column, column]
        weight[:, column:] -= error.unsqueeze(1) * factor[column, column:]
    return made[:, places.argsort()].bfloat16().double()


def fit(weight, group, scale, zero):
    """Scales of bfloat16, and zeros, between the extremes of the group and 0."""
    low, high = weight[:, group].amin(1).clamp(max=0), weight[:, group].amax(1).clamp(min=0)
    step = ((high - low) / 15).bfloat16().double()
    scale[:, group] = step.unsqueeze(1)
    zero[:, group] = (-low / step).round().clamp(0, 15).unsqueeze(1)


QUANTIZED = f"W4A16g{GROUP_SIZE}"
IN_ORDER = {"act_order": False, "static_groups": False, "true_sequential": False}
CASES = {
    "wanda": ("wanda", "50%", {}, (wanda, {}), [(wanda, {"root": False})]),
    "sparsegpt": (
        "sparsegpt",
        "50%",
        {},
        (sparsegpt, {}),
        [
            (sparsegpt, {"damping": 0.1}),
            (sparsegpt, {"second_order": False}),
            (sparsegpt, {"blocksize": 32}),
            (sparsegpt, {"sequential": True}),
        ],
    ),
    "sparsegpt in sequence": (
        "sparsegpt",
        "50%",
        {"true_sequential": True},
        (sparsegpt, {"sequential": True}),
        [(sparsegpt, {})],
    ),
    "gptq as recommended": (
        "gptq",
        QUANTIZED,
        {},
        (gptq, {"sequential": True}),
        [
            (gptq, {"sequential": True, "order": "ascending"}),
            (gptq, {"sequential": True, "order": "none"}),
            (gptq, {"sequential": True, "damping": 0.1}),
            (gptq, {}),
        ],
    ),
    "gptq as the program": (
        "gptq",
        QUANTIZED,
        IN_ORDER,
        (gptq, {"order": "none", "static": False}),
        [(gptq, {"order": "none"}), (gptq, {"order": "none", "static": False, "damping": 0.1})],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_block_is_that_of_the_plain_reference_and_of_no_mistaken_one(tmp_path, case):
    method, setting, options, right, mistakes = CASES[case]
    zoo_checkpoint("llama-gqa-small", tmp_path / "model")
    quantized = {"layout": "dense"} if method == "gptq" else {}
    _, artifact, _ = Requests(method, tmp_path)(setting, length=LENGTH, **options, **quantized)
    stored = tensors_of(artifact)
    found = {name: stored[f"{BLOCK}.{name}.weight"].double() for group in GROUPS for name in group}

    def alike(reference):
        """The share of the first block's weights with the same code, or of the mask's entries that are the same."""
        of, keywords = reference
        sequential = keywords.get("sequential", False)
        rest = {name: value for name, value in keywords.items() if name != "sequential"}
        expected = compressed(Dense(tmp_path, method), lambda *each: of(*each, **rest), sequential=sequential)
        same = [
            expected[name] == weight if method == "gptq" else (expected[name] == 0) == (weight == 0)
            for name, weight in found.items()
        ]
        return float(torch.cat([one.flatten() for one in same]).double().mean())

    assert alike(right) > 0.995, "what differs are near ties, more of them with AVX-512"
    for mistake in mistakes:
        assert alike(mistake) < 0.995, mistake


def size(weight, gradient):
    return weight.abs()


def squared(weight, gradient):
    return (weight * gradient).square()


def salience(weight, gradient):
    return (weight * gradient).abs()


def kept_channels(dense, count, score):
    """The feed-forward channels of the first block with the largest sums of scores, in their order."""
    model = dense.model.requires_grad_(requires_grad=True)
    with torch.enable_grad():
        losses = [model(one.unsqueeze(0), labels=one.unsqueeze(0)).loss for one in dense.sequences]
        (sum(losses) / len(losses)).backward()
    parts = [(dense.weight(name), dense.weight(name).grad) for name in ("mlp.gate_proj", "mlp.up_proj")]
    down = dense.weight("mlp.down_proj")
    total = score(down.detach(), down.grad).sum(0)
    total = total + sum(score(weight.detach(), gradient).sum(1) for weight, gradient in parts)
    return total.argsort(descending=True)[:count].sort().values


def test_llm_pruner_keeps_the_channels_whose_weights_times_gradients_are_largest(tmp_path):
    zoo_checkpoint("llama-gqa-small", tmp_path / "model")
    _, artifact, _ = Requests("llm-pruner", tmp_path)("20%", length=LENGTH)
    found = tensors_of(artifact)[f"{BLOCK}.mlp.up_proj.weight"].float()

    def alike(score):
        dense = Dense(tmp_path, "llm-pruner")
        rows = dense.weight("mlp.up_proj").detach().clone()
        kept = kept_channels(dense, len(found), score)
        return float((rows[kept].unsqueeze(1) == found.unsqueeze(0)).all(-1).any(1).double().mean())

    assert 0 < len(found) < 0.9 * len(Dense(tmp_path, "llm-pruner").weight("mlp.up_proj"))
    assert alike(salience) == 1
    for mistake in (size, squared):
        assert alike(mistake) < 0.99, mistake
