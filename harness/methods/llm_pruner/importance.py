"""How much each head or channel matters (LLM-Pruner, section 3.2): scores of its weights, put together over the unit.

The Taylor scores estimate, from weights and gradients, by how much the loss changes if the weights go. Biases have no
part in a unit's score, as in the authors' code.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from harness.methods.llm_pruner.coupled import ROWS, CoupledUnits
from harness.methods.llm_pruner.gradients import WeightGradient

Taylor = Literal["param_first", "param_second", "param_mix", "vectorize"]
Grouping = Literal["sum", "mean", "max", "prod", "first"]

MatrixScore = Callable[[str, Tensor], Tensor]
"""From a linear's name and its weight to a score for each weight, float32."""


def taylor_score(order: Taylor, gradients: Mapping[str, WeightGradient]) -> MatrixScore:
    """First order: w·g. Second: w²·h, where h, the mean square of the sequences' gradients, stands for the curvature.

    Mixed: the first less half the second. `vectorize` is of first order too; see `unit_scores`.
    """

    def score(name: str, weight: Tensor) -> Tensor:
        found = gradients[name]
        first = weight * found.loss
        if order in ("param_first", "vectorize"):
            return first
        assert found.mean_square is not None  # noqa: S101  the caller asked for it, since the order needs it
        second = weight * found.mean_square * weight
        return second if order == "param_second" else first - 0.5 * second

    return score


def magnitude_score(power: int) -> MatrixScore:
    """|w| or w²."""
    return lambda _, weight: weight.float().abs().pow(power)


def unit_scores(units: CoupledUnits, score: MatrixScore, grouping: Grouping, *, signed: bool = False) -> Tensor:
    """The importance of each unit, float64 [units] on the weights' device.

    In each linear, the scores of a channel's weights are summed by their size, or, where `signed`, with their signs
    before the size is taken. The linears' sums are put together by `grouping`, channel by channel, and the channels of
    a unit are then summed. Query heads that share a key head are summed first.
    """
    scored = {member.linear.name: score(member.linear.name, member.linear.module.weight) for member in units.members}
    vectors = []
    for member in units.members:
        part = member.part_of(scored[member.linear.name], units.units)
        across = 1 if member.dim == ROWS else 0
        vector = part.sum(across).abs() if signed else part.abs().sum(across)
        vectors.append(vector.view(units.units, -1, units.base).sum(1, dtype=torch.float64))
    return _put_together(torch.stack(vectors), grouping).sum(1)


def _put_together(vectors: Tensor, grouping: Grouping) -> Tensor:
    if grouping == "first":
        return vectors[0]
    if grouping == "max":
        return vectors.amax(0)
    if grouping == "prod":
        return vectors.prod(0)
    return vectors.sum(0) if grouping == "sum" else vectors.mean(0)
