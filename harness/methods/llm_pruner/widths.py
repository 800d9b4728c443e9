"""How many heads and channels each block keeps, so that a given share of the model's parameters goes.

Arithmetic on sizes alone: no weight is looked at. Two rules: the share of all parameters that is really removed
(`nearest_widths`), and the one of the authors' program, whose flag is the share of each pruned block's channels
(`official_widths`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from harness.architectures.blocks import Block
from harness.contract import Reason
from harness.errors import Unsupported
from harness.methods.llm_pruner.coupled import block_units

_WIDEST_MULTIPLE = 128
_STEPS_AT_LEAST = 16


@dataclass(frozen=True)
class BlockWidths:
    """`heads` counts key-value heads, with the query heads that read them."""

    heads: int
    channels: int


@dataclass(frozen=True)
class ModelSize:
    """The sizes that matter, the same in every block. Parameters include biases; `total` counts tied ones once."""

    total: int
    blocks: int
    block: BlockWidths
    head_parameters: int
    channel_parameters: int
    head_size: int

    def removed(self, widths: Iterable[BlockWidths]) -> int:
        """Parameters that go if the blocks become so wide."""
        return sum(
            (self.block.heads - one.heads) * self.head_parameters
            + (self.block.channels - one.channels) * self.channel_parameters
            for one in widths
        )

    @property
    def multiple(self) -> int:
        """What channels are kept in multiples of: a power of two up to 128, and at most a sixteenth of the width."""
        fine = self.block.channels // _STEPS_AT_LEAST
        return min(_WIDEST_MULTIPLE, 1 << max(fine, 1).bit_length() - 1)


def measure(model: nn.Module, blocks: Sequence[Block]) -> ModelSize:
    """The sizes of a model.

    Raises:
        Unsupported: its blocks differ in width, so it has been pruned before.
    """
    units = [block_units(block) for block in blocks]
    widths = {BlockWidths(one.heads.units, one.channels.units) for one in units}
    if len(widths) != 1:
        raise Unsupported(
            Reason.SHAPE,
            "the blocks of this model differ in width",
            hint="start from the model as it was before it was pruned",
        )
    first = units[0]
    return ModelSize(
        total=sum(parameter.numel() for parameter in model.parameters()),
        blocks=len(blocks),
        block=widths.pop(),
        head_parameters=first.heads.parameters_per_unit,
        channel_parameters=first.channels.parameters_per_unit,
        head_size=first.heads.base,
    )


def official_layers(blocks: int) -> range:
    """The blocks that the authors prune: all but the first eighth and the last sixteenth, so 4 to 29 of 32."""
    return range(round(blocks / 8), blocks - round(blocks / 16))


def official_widths(size: ModelSize, flag: float) -> BlockWidths:
    """What the authors' program leaves of a pruned block, its rounding included; heads go as whole heads only."""
    rows = size.block.heads * size.head_size
    heads = (rows - int(rows * (1 - flag))) // size.head_size
    return BlockWidths(heads=size.block.heads - heads, channels=int(size.block.channels * (1 - flag)))


def nearest_widths(
    size: ModelSize, share: float, blocks: int, *, multiple: int, allowed_heads: Sequence[int]
) -> BlockWidths:
    """Widths, the same in `blocks` blocks, with which the removed share of all parameters is nearest to `share`.

    Heads and channels go in about the same proportion: the heads are the allowed number next to it on either side, and
    the channels, in multiples of `multiple`, make up the rest.

    Raises:
        Unsupported: the share cannot be had from these blocks, or is too small for any head or channel.
    """
    wanted = share * size.total / blocks
    all_heads, all_channels = size.block.heads, size.block.channels
    can_go = len(set(allowed_heads)) > 1
    prunable = all_channels * size.channel_parameters + can_go * all_heads * size.head_parameters
    if wanted >= prunable:
        raise _out_of_reach(size, share, blocks, multiple, allowed_heads)
    keep = 1 - wanted / prunable
    below = max((one for one in allowed_heads if one <= keep * all_heads), default=min(allowed_heads))
    above = min((one for one in allowed_heads if one >= keep * all_heads), default=max(allowed_heads))
    candidates = [
        BlockWidths(heads, channels)
        for heads in sorted({below, above})
        for channels in _channels_near(size, wanted - (all_heads - heads) * size.head_parameters, multiple)
    ]

    def distance(one: BlockWidths) -> tuple[float, float]:
        proportion = abs(one.heads / all_heads - one.channels / all_channels)
        return abs(size.removed([one]) - wanted), proportion

    best = min(candidates, key=distance)
    step = max(size.head_parameters if can_go else 0, multiple * size.channel_parameters)
    if distance(best)[0] > step:
        raise _out_of_reach(size, share, blocks, multiple, allowed_heads)
    if best == size.block:
        raise Unsupported(
            Reason.SHAPE,
            f"{share:.2%} of the parameters are fewer than half a step: nothing would be removed",
            hint=f"ask for more, or for a finer multiple than {multiple}",
        )
    return best


def _channels_near(size: ModelSize, wanted: float, multiple: int) -> list[int]:
    """The multiples on either side of the number that removes `wanted`; all the channels where none need go."""
    exact = size.block.channels - wanted / size.channel_parameters
    near = {math.floor(exact / multiple) * multiple, math.ceil(exact / multiple) * multiple}
    return sorted(min(max(one, multiple), size.block.channels) for one in near)


def _out_of_reach(
    size: ModelSize, share: float, blocks: int, multiple: int, allowed_heads: Sequence[int]
) -> Unsupported:
    least = BlockWidths(min(allowed_heads), min(multiple, size.block.channels))
    most = blocks * size.removed([least]) / size.total
    return Unsupported(
        Reason.SHAPE,
        f"{share:.1%} of the parameters cannot be removed from {blocks} of {size.blocks} blocks, at most {most:.1%}",
        hint="ask for less, prune more blocks (first_layer, last_layer), or use `export: original` for heads that a "
        "uniform checkpoint cannot lose",
    )


def step_widths(size: ModelSize, final: BlockWidths, step: int, steps: int) -> BlockWidths:
    """Where step `step` (from 1) of `steps` stands on the straight way from the dense widths to the final ones."""
    return BlockWidths(
        heads=size.block.heads - (size.block.heads - final.heads) * step // steps,
        channels=size.block.channels - (size.block.channels - final.channels) * step // steps,
    )
