"""Channels that can only go together: a head of the attention, or one channel of the feed-forward part.

What LLM-Pruner finds by tracing the model (section 3.1 of its paper) follows here from the family's layout: the rows of
queries, keys and values with the columns of the attention's output, the rows of gate and up with the columns of down.
With grouped queries, a unit is a key-value head and all the query heads that read it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from harness.architectures.blocks import Block, NamedLinear
from harness.architectures.pruned_shapes import note_heads

ROWS, COLUMNS = 0, 1
Kind = Literal["heads", "channels"]


@dataclass(frozen=True)
class Member:
    """A unit's part in one linear: `per_unit` neighbouring rows or columns (`dim`), unit 0's from `start` on."""

    linear: NamedLinear
    dim: int
    per_unit: int
    start: int = 0

    @property
    def parameters_per_unit(self) -> int:
        module = self.linear.module
        if self.dim == COLUMNS:
            return self.per_unit * module.out_features
        return self.per_unit * (module.in_features + (module.bias is not None))

    def part_of(self, matrix: Tensor, units: int) -> Tensor:
        """The rows or columns of `matrix`, shaped as the linear's weight, that belong to the units."""
        return matrix.narrow(self.dim, self.start, units * self.per_unit)

    def indices(self, kept: Tensor) -> Tensor:
        """The rows or columns of the units `kept`."""
        offsets = torch.arange(self.per_unit)
        return (self.start + kept.unsqueeze(1) * self.per_unit + offsets).flatten()


@dataclass(frozen=True)
class CoupledUnits:
    """Units of one kind in one block. `base` channels of a unit are scored one by one, and then summed."""

    kind: Kind
    block: Block
    units: int
    base: int
    members: tuple[Member, ...]

    @property
    def parameters_per_unit(self) -> int:
        return sum(member.parameters_per_unit for member in self.members)


@dataclass(frozen=True)
class BlockUnits:
    """All that can be removed from one block. `heads` counts key-value heads."""

    heads: CoupledUnits
    channels: CoupledUnits

    @property
    def kinds(self) -> tuple[CoupledUnits, CoupledUnits]:
        return self.heads, self.channels


def block_units(block: Block) -> BlockUnits:
    """The coupled units of a block as it is now."""
    return BlockUnits(heads=_heads(block), channels=_channels(block))


def head_size(block: Block) -> int:
    return int(block.attention.head_dim)  # type: ignore[arg-type]


def queries_per_unit(block: Block) -> int:
    """Query heads that read one key-value head."""
    heads = _heads(block)
    return heads.members[0].per_unit // heads.base


def _heads(block: Block) -> CoupledUnits:
    size = head_size(block)
    by_name = {linear.name.rpartition(".")[2]: linear for linear in block.groups[0].linears}
    query, key, value = (by_name[name] for name in ("q_proj", "k_proj", "v_proj"))
    (output,) = block.groups[1].linears
    units = key.module.out_features // size
    per_unit = query.module.out_features // units
    members = (
        Member(query, ROWS, per_unit),
        Member(key, ROWS, size),
        Member(value, ROWS, size),
        Member(output, COLUMNS, per_unit),
    )
    return CoupledUnits("heads", block, units, size, members)


def _channels(block: Block) -> CoupledUnits:
    (down,) = block.groups[3].linears
    units = down.module.in_features
    into = block.groups[2].linears
    if block.family.gated and len(into) == 1:
        rows: tuple[Member, ...] = (Member(into[0], ROWS, 1), Member(into[0], ROWS, 1, start=units))
    else:
        by_name = sorted(into, key=lambda linear: linear.name)  # gate before up
        rows = tuple(Member(linear, ROWS, 1) for linear in by_name)
    return CoupledUnits("channels", block, units, 1, (*rows, Member(down, COLUMNS, 1)))


@torch.no_grad()
def cut(units: CoupledUnits, kept: Tensor, device: torch.device) -> None:
    """Take all units but `kept` (ascending indices, on the host) out of the block's linears; computes on `device`."""
    for linear, dim, members in by_linear(units):
        indices = torch.cat([member.indices(kept) for member in members]).to(device)
        module = linear.module
        module.weight = _select(module.weight, dim, indices)
        if dim == COLUMNS:
            module.in_features = len(indices)
            continue
        module.out_features = len(indices)
        if module.bias is not None:
            module.bias = _select(module.bias, ROWS, indices)
    if units.kind == "heads":
        note_heads(units.block, len(kept) * units.members[0].per_unit // units.base)


def _select(parameter: Tensor, dim: int, indices: Tensor) -> nn.Parameter:
    kept = parameter.to(indices.device).index_select(dim, indices).to(parameter.device)
    return nn.Parameter(kept, requires_grad=False)


def by_linear(units: CoupledUnits) -> Iterator[tuple[NamedLinear, int, list[Member]]]:
    """Each linear once, with its members in the order in which they lie in it."""
    grouped: dict[str, list[Member]] = {}
    for member in units.members:
        grouped.setdefault(member.linear.name, []).append(member)
    for members in grouped.values():
        yield members[0].linear, members[0].dim, members
