"""AWQ's search for the scale of each input channel (section 3.2; authors' code, `auto_scale`).

Channels with large activations have their weights multiplied before rounding, and divided after: they lose less. How
much more they count is one number a group of linears, tried on a grid.

For each candidate the modules are run again, on a part of the calibration text: of the losses only the order matters,
which a part shows, too, and it is these runs that AWQ's time goes to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.methods.awq.inspection import Inspection
from harness.methods.numerics.rounding import RoundingGrid, fake_quantize
from harness.methods.skeleton.stream import ActivationStream

_SMALLEST_SCALE = 1e-4
_AUTOAWQ_EPSILON = 1e-4
_AUTOAWQ_PEAK_EPSILON = 1e-6


@dataclass(frozen=True)
class FoundScale:
    """`scale`: [in_features]. `loss`: the mean squared change of the inspected output. `candidate`: its row."""

    scale: Tensor
    loss: float
    candidate: int


def searched_batches(stream: ActivationStream, wanted: int) -> tuple[int, ...]:
    """The fewest batches at even distances, the first one among them, that hold `wanted` tokens; 0 takes all."""
    tokens = [_tokens(stream, batch) for batch in range(len(stream.hidden))]
    for count in range(1, len(tokens) if wanted else 0):
        spaced = tuple(step * len(tokens) // count for step in range(count))
        if sum(tokens[batch] for batch in spaced) >= wanted:
            return spaced
    return tuple(range(len(tokens)))


def search_notes(stream: ActivationStream, searched: Sequence[int]) -> tuple[str, ...]:
    """For the report: what the modules are run on again, where it is not all of the text."""
    batches = range(len(stream.hidden))
    if len(searched) == len(batches):
        return ()
    part, whole = (sum(len(stream.hidden[batch]) for batch in some) for some in (searched, batches))
    tokens, of = (sum(_tokens(stream, batch) for batch in some) for some in (searched, batches))
    return (
        f"the scales of attention and feed-forward part were searched on {part} of {whole} calibration sequences, "
        f"{tokens} of {of} tokens, in batches at even distances",
    )


def candidate_scales(inputs: Tensor, ratios: int, weights: Tensor | None = None) -> Tensor:
    """[ratios, in_features]: x^r for r in 0, 1/ratios, …, each so that largest times smallest is 1.

    inputs: mean magnitude of each channel. `weights`, of the same shape, makes them x^r / w^(1-r), as AutoAWQ does.
    """
    rows = []
    for step in range(ratios):
        ratio = step / ratios
        scale = inputs.pow(ratio)
        if weights is not None:
            scale = scale / (weights.pow(1 - ratio) + _AUTOAWQ_EPSILON)
        scale = scale.clamp(min=_SMALLEST_SCALE)
        rows.append(scale / (scale.max() * scale.min()).sqrt())
    return torch.stack(rows)


def mean_relative_magnitude(linears: Sequence[nn.Linear], grid: RoundingGrid) -> Tensor:
    """[in_features]: the mean over all rows of each weight's share of its group's largest magnitude (AutoAWQ)."""
    total = torch.zeros(linears[0].in_features, device=linears[0].weight.device)
    for linear in linears:
        magnitude = grid.groups(linear.weight).abs()
        relative = magnitude / (magnitude.amax(-1, keepdim=True) + _AUTOAWQ_PEAK_EPSILON)
        total = total + relative.reshape(linear.weight.shape).sum(0)
    return total / sum(linear.out_features for linear in linears)


def search_scale(
    linears: Sequence[nn.Linear], candidates: Tensor, grid: RoundingGrid, inspection: Inspection, *, first: int
) -> FoundScale:
    """The candidate with which rounding the linears changes the inspected output least; the lowest of equals.

    They are tried outwards from `first`, so that a good guess spares most of the work for the others. It does not
    change the result. A candidate whose output overflows is not taken. Where all do, the loss is infinite.
    """
    losses = [math.inf] * len(candidates)
    for index in sorted(range(len(candidates)), key=lambda index: abs(index - first)):
        rounded = [_round_scaled(linear.weight, candidates[index], grid) for linear in linears]
        loss = inspection.loss(rounded, min(losses))
        losses[index] = math.inf if math.isnan(loss) else loss
    best = losses.index(min(losses))
    return FoundScale(scale=candidates[best], loss=losses[best], candidate=best)


def _round_scaled(weight: Tensor, scale: Tensor, grid: RoundingGrid) -> Tensor:
    return fake_quantize(grid.groups(weight * scale), grid).reshape(weight.shape).div_(scale)


def _tokens(stream: ActivationStream, batch: int) -> int:
    sequences, length, _ = stream.hidden[batch].shape
    return sequences * length
