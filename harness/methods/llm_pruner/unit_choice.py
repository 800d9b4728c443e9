"""Which heads and channels stay, given how important each is."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.contract import Reason
from harness.errors import Unsupported
from harness.methods.llm_pruner.coupled import CoupledUnits
from harness.methods.llm_pruner.widths import BlockWidths


@dataclass(frozen=True)
class ScoredUnits:
    """The units of one kind in one block, and how important each is: float64 [units] on the host."""

    units: CoupledUnits
    scores: Tensor


ScoredBlock = tuple[ScoredUnits, ScoredUnits]
"""Heads and channels."""

Kept = tuple[Tensor, Tensor]
"""Indices of the heads and of the channels that stay, ascending."""


def choose_alike(scored: Mapping[int, ScoredBlock], widths: BlockWidths) -> dict[int, Kept]:
    """By block index: in each block, the most important ones in the same number."""
    return {
        index: (_most_important(heads.scores, widths.heads), _most_important(channels.scores, widths.channels))
        for index, (heads, channels) in scored.items()
    }


def _most_important(scores: Tensor, count: int) -> Tensor:
    """Of equal scores the later ones stay."""
    ranked = scores.argsort(stable=True)
    return ranked[len(ranked) - count :].sort().values


def choose_over_all(scored: Mapping[int, ScoredBlock], parameters: int, multiple: int) -> dict[int, Kept]:
    """By block index: those that stay when the least important of all blocks go, until `parameters` are gone.

    Heads and channels are of different sizes, so what is compared is their importance a parameter. The most important
    head and the `multiple` most important channels of a block always stay.

    Raises:
        Unsupported: the blocks have too few parameters for that.
    """
    pools = [one for kinds in scored.values() for one in kinds]
    sizes = [one.units.parameters_per_unit for one in pools]
    ranks = torch.cat([one.scores / size for one, size in zip(pools, sizes, strict=True)])
    costs = torch.cat([torch.full_like(one.scores, size) for one, size in zip(pools, sizes, strict=True)])
    safe = torch.cat([_safe(one, 1 if one.units.kind == "heads" else multiple) for one in pools])
    order = ranks.masked_fill(safe, torch.inf).argsort(stable=True)[: int((~safe).sum())]
    gone = costs[order].cumsum(0)
    if not len(gone) or parameters > gone[-1]:
        raise Unsupported(
            Reason.SHAPE,
            f"{parameters} parameters cannot be removed from {len(scored)} blocks, which have {int(costs.sum())} in "
            "heads and channels",
            hint="ask for less, or prune more blocks (first_layer, last_layer)",
        )
    count = 1 + int((gone - parameters).abs().argmin())
    stays = torch.ones(len(ranks), dtype=torch.bool)
    stays[order[:count]] = False
    parts = iter(torch.split(stays, [one.units.units for one in pools]))
    return {index: (next(parts).nonzero().flatten(), next(parts).nonzero().flatten()) for index in scored}


def _safe(one: ScoredUnits, count: int) -> Tensor:
    """True for the `count` most important units."""
    safe = torch.zeros(one.units.units, dtype=torch.bool)
    safe[_most_important(one.scores, min(count, one.units.units))] = True
    return safe
