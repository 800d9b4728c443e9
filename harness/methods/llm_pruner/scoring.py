"""The importance of every head and channel that may be cut out: of all blocks, by the rule that was asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from harness.architectures.blocks import Block, linears_of
from harness.errors import BadCheckpoint
from harness.methods.base import CompressionContext
from harness.methods.llm_pruner.coupled import CoupledUnits, block_units
from harness.methods.llm_pruner.gradients import block_gradients, borrowed
from harness.methods.llm_pruner.importance import (
    Grouping,
    MatrixScore,
    Taylor,
    magnitude_score,
    taylor_score,
    unit_scores,
)
from harness.methods.llm_pruner.unit_choice import ScoredBlock, ScoredUnits

Importance = Literal["taylor", "l1", "l2", "random"]


@dataclass(frozen=True)
class ScoringRule:
    """`taylor` and `batch_size`, in sequences, are of the importance `taylor` alone, `seed` of `random`."""

    importance: Importance
    taylor: Taylor
    grouping: Grouping
    batch_size: int
    seed: int


def score_blocks(context: CompressionContext, rule: ScoringRule, layers: range) -> dict[int, ScoredBlock]:
    """By block index, the scores of the blocks `layers`.

    Raises:
        BadCheckpoint: a weight, or what follows from it, holds NaN or an infinity.
    """
    scoring = _scored_by_gradient if rule.importance == "taylor" else _scored_by_weight
    try:
        return {block.index: scored for block, scored in scoring(context, rule, layers)}
    except BadCheckpoint as failure:
        for linear in linears_of(context.blocks):
            if not bool(torch.isfinite(linear.module.weight).all()):
                raise BadCheckpoint(
                    f"the weight of {linear.name} holds NaN or infinity",
                    hint="fetch the checkpoint again, or repair it",
                ) from failure
        raise


def _scored_by_gradient(
    context: CompressionContext, rule: ScoringRule, layers: range
) -> Iterator[tuple[Block, ScoredBlock]]:
    needs_squares = rule.taylor in ("param_second", "param_mix")
    signed = rule.taylor == "vectorize"
    for block, found in block_gradients(context, batch_size=rule.batch_size, per_sequence=needs_squares):
        if block.index in layers:
            yield block, _score(block, taylor_score(rule.taylor, found), rule.grouping, signed=signed)


def _scored_by_weight(
    context: CompressionContext, rule: ScoringRule, layers: range
) -> Iterator[tuple[Block, ScoredBlock]]:
    generator = torch.Generator().manual_seed(rule.seed)
    for index in layers:
        block = context.blocks[index]
        if rule.importance == "random":
            heads, channels = block_units(block).kinds
            yield block, (_random(heads, generator), _random(channels, generator))
            continue
        score = magnitude_score(1 if rule.importance == "l1" else 2)
        with borrowed([block.module], context.device):
            yield block, _score(block, score, rule.grouping)


@torch.no_grad()
def _score(block: Block, score: MatrixScore, grouping: Grouping, *, signed: bool = False) -> ScoredBlock:
    heads, channels = (
        ScoredUnits(units, unit_scores(units, score, grouping, signed=signed).cpu())
        for units in block_units(block).kinds
    )
    if not bool(torch.isfinite(torch.cat([heads.scores, channels.scores])).all()):
        raise BadCheckpoint(
            f"the importance of a head or channel of {block.name} is not finite",
            hint="evaluate the dense checkpoint: it may overflow in its dtype, or be damaged",
        )
    return heads, channels


def _random(units: CoupledUnits, generator: torch.Generator) -> ScoredUnits:
    return ScoredUnits(units, torch.rand(units.units, generator=generator, dtype=torch.float64))
