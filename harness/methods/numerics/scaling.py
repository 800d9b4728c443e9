"""Exact rescalings: what one module puts out is divided, channel by channel, and the linears that read it make up.

Shared by SmoothQuant (section 4), AWQ (section 3.2) and OmniQuant (section 3.3). In exact arithmetic a block's output
stays as it was; products are taken in float32 or better, and rounded once to the parameter's dtype.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from harness.architectures.blocks import Block, LinearGroup
from harness.contract import Reason
from harness.errors import Unsupported


class PairKind(StrEnum):
    """Places in a block where a scale can move from what is written to what reads it."""

    INPUT_NORM = "the norm before the attention and its queries, keys and values"
    VALUE_OUTPUT = "the values and the attention's output"
    MLP_NORM = "the norm before the feed-forward part and its first linears"
    UP_DOWN = "the up and the down projection"


@dataclass(frozen=True)
class ScalePair:
    """`before` makes what the linears of `after` read, and nothing else reads it."""

    kind: PairKind
    before: nn.Module
    after: LinearGroup
    norm_offset: int = 0

    def fold(self, scale: Tensor, stored_as: torch.dtype | None = None) -> Tensor:
        """Divide the channels between the two by `scale`, positive, [in_features of `after`].

        Returns what they were divided by: see `storable_scale`, which `stored_as` is for.
        """
        linears = [linear.module for linear in self.after.linears]
        if isinstance(self.before, nn.Linear):
            fold_into_linear(self.before, linears, scale)
            return scale
        if stored_as is not None:
            weight = self.before.get_parameter("weight")
            scale = storable_scale(weight, scale, stored_as, offset=self.norm_offset)
        fold_into_norm(self.before, linears, scale, offset=self.norm_offset)
        return scale


@dataclass(frozen=True)
class BlockPairs:
    """The pairs of a block in the order of computation, and why each of the others is not one."""

    found: Mapping[PairKind, ScalePair]
    missing: Mapping[PairKind, str]


def fold_into_norm(norm: nn.Module, linears: Iterable[nn.Linear], scale: Tensor, *, offset: int = 0) -> None:
    """Divide the norm's factors (and bias, as LayerNorm has) by `scale`, and multiply the linears' columns by it."""
    weight, bias = norm.weight, getattr(norm, "bias", None)
    assert isinstance(weight, Tensor)  # noqa: S101  no pair is found where it is not
    weight.data.copy_(divided_norm_weight(weight.data, scale, offset=offset))
    if isinstance(bias, Tensor):
        bias.data.div_(scale)
    _multiply_columns(linears, scale)


def divided_norm_weight(weight: Tensor, scale: Tensor, *, offset: int) -> Tensor:
    """The weight with which a norm, whose factors are `offset` + weight, puts out 1/scale of what it did."""
    if not offset:
        return weight / scale
    return (weight.to(torch.promote_types(weight.dtype, torch.float32)) + offset) / scale - offset


def storable_scale(weight: Tensor, scale: Tensor, stored_as: torch.dtype, *, offset: int) -> Tensor:
    """The scale next to `scale` [features] that a norm can hold whose weight is stored in `stored_as`.

    Where the factors are `offset` + weight, a small factor is what is left of two near numbers: a weight of -0.99 is
    rounded so in bfloat16 that its factor is wrong by a tenth. With the scale that the stored weight makes, the linears
    make up for exactly what the norm divides by. Without an offset no factor is so inexact: `scale` itself.
    """
    if not offset:
        return scale
    exact = torch.promote_types(weight.dtype, torch.float32)
    factor = weight.to(exact) + offset
    held = divided_norm_weight(weight, scale.to(exact), offset=offset).to(stored_as).to(exact) + offset
    held = held.where(held != 0, torch.finfo(stored_as).eps / 2)
    return (factor / held).where(factor != 0, scale)


def fold_into_linear(before: nn.Linear, linears: Iterable[nn.Linear], scale: Tensor) -> None:
    """Divide the last rows (and biases) of `before`, as many as `scale` has entries, and multiply the columns.

    The last rows: where gate and up are fused into one matrix, up comes last, and it is up that is multiplied.
    """
    channels = scale.numel()
    before.weight.data[-channels:].div_(scale.unsqueeze(1))
    if before.bias is not None:
        before.bias.data[-channels:].div_(scale)
    _multiply_columns(linears, scale)


def smoothable_pairs(block: Block) -> BlockPairs:
    """Where scales can be moved in this block without changing its output.

    Raises:
        Unsupported: the block normalises after its parts, so that its norms feed the residual stream, too.
    """
    if not block.norms_come_first:
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"{block.name} normalises after the attention, so no scale can move between its norms and its linears",
            hint="use a method that moves no scales, such as gptq, or a model that normalises first",
        )
    qkv, output, up, down = block.groups
    candidates = (
        (PairKind.INPUT_NORM, block.input_norm, qkv, _norm_objection(block.input_norm)),
        (PairKind.VALUE_OUTPUT, _named(qkv, "v_proj"), output, _value_objection(_named(qkv, "v_proj"), output)),
        (PairKind.MLP_NORM, block.mlp_norm, up, _norm_objection(block.mlp_norm)),
        (PairKind.UP_DOWN, up.linears[0].module, down, _up_objection(block)),
    )
    offset = block.family.norm_offset
    return BlockPairs(
        found={
            kind: ScalePair(kind, before, after, offset)
            for kind, before, after, objection in candidates
            if not objection
        },
        missing={kind: objection for kind, _, _, objection in candidates if objection},
    )


def missing_pairs(blocks: Iterable[Block], kinds: Collection[PairKind] = tuple(PairKind)) -> list[str]:
    """For the report: between what no scale moves in some block, in how many blocks, and why."""
    counts: Counter[tuple[PairKind, str]] = Counter()
    for block in blocks:
        counts.update((kind, reason) for kind, reason in smoothable_pairs(block).missing.items() if kind in kinds)
    return [f"no scale moves between {kind} in {count} block(s): {reason}" for (kind, reason), count in counts.items()]


def _multiply_columns(linears: Iterable[nn.Linear], scale: Tensor) -> None:
    for linear in linears:
        linear.weight.data.mul_(scale)


def _named(group: LinearGroup, suffix: str) -> nn.Linear:
    return next(linear.module for linear in group.linears if linear.name.endswith(suffix))


def _norm_objection(norm: nn.Module) -> str:
    return "" if isinstance(getattr(norm, "weight", None), Tensor) else "the norm has no weight that could be divided"


def _value_objection(value: nn.Linear, output: LinearGroup) -> str:
    if value.out_features == output.in_features:
        return ""
    return f"several heads share their values ({value.out_features} channels feed {output.in_features} inputs)"


def _up_objection(block: Block) -> str:
    """A gate multiplies up's channels; without a gate the activation must let a positive factor through."""
    if block.family.gated:
        return ""
    activation = getattr(block.module, "activation_fn", None)
    if isinstance(activation, nn.ReLU) or activation is torch.nn.functional.relu:
        return ""
    return f"the activation between them, {type(activation).__name__}, does not let a factor through as ReLU does"
