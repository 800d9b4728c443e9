"""Wanda (Sun et al., 2024, arXiv:2306.11695): one-shot pruning by weight magnitude times input norm, row by row.

Covered: any ratio in each row, n:m patterns, and the variant of the authors' code that chooses each row's ratio by the
share of its scores. Not covered: their fine-tuning after pruning.
"""

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from harness.architectures.blocks import Block, LinearGroup
from harness.contract import CompressParameters, Frozen, LayerReport
from harness.errors import BadCheckpoint, BadRequest
from harness.methods.base import CompressionContext, Outcome
from harness.methods.numerics.masks import smallest_of_groups, smallest_of_rows
from harness.methods.skeleton.saving import finish
from harness.methods.skeleton.sequential import GroupResult, Sequential, compress_blocks
from harness.methods.sparsity import Target, refuse_broken_patterns, sparsity_of, target_of
from harness.options import parse_options
from harness.telemetry import Stopwatch

_CHUNK_WEIGHTS = 2**25
"""Weights that are scored at once, which bounds the temporaries of a large matrix."""

_LARGEST_SHARE = 0.8
_SHARE_STEPS = 10
_TOLERANCE = 0.001


class WandaOptions(Frozen):
    """`variant` lets rows differ in their ratio; `batch_size` counts sequences."""

    variant: bool = False
    batch_size: PositiveInt = 4


OPTIONS = {"wanda": WandaOptions}


def parse(parameters: CompressParameters) -> "Wanda":
    """Read the setting and the options of a request.

    Raises:
        Unsupported: the setting is a quantization.
        BadRequest: an option is unknown or out of range, or the variant is asked for with a pattern.
    """
    setting = parameters.setting
    target = target_of(setting, "wanda")
    options = parse_options(WandaOptions, parameters.options, "wanda")
    if options.variant and setting.zeros_of is not None:
        raise BadRequest(
            f"wanda's variant lets the rows' ratios differ, which the pattern {setting.name} does not allow",
            hint="use a ratio such as '50%' with it, or leave 'variant' out",
        )
    return Wanda(target, options)


class Wanda:
    """A parsed request; see `harness.methods.base.Compressor`."""

    def __init__(self, target: Target, options: WandaOptions) -> None:
        self._target = target
        self.options = options

    def check(self, blocks: Sequence[Block]) -> None:
        refuse_broken_patterns(blocks, self._target)

    def compress(self, context: CompressionContext) -> Outcome:
        work = _Work(self._target, self.options, context)
        skeleton = Sequential(context, work, batch_size=self.options.batch_size)
        return finish(context, compress_blocks(context, skeleton), sparsity=sparsity_of(self._target))


class InputNorm:
    """The mean, over the calibration sequences, of each input's squared norm: float32 [in_features]."""

    def __init__(self, group: LinearGroup, device: torch.device) -> None:
        self.mean_square = torch.zeros(group.in_features, dtype=torch.float32, device=device)
        self._sequences = 0

    def add(self, inputs: Tensor, sequences: int) -> None:
        before = self._sequences
        self._sequences += sequences
        self.mean_square.mul_(before / self._sequences).add_(_square_norm(inputs), alpha=1 / self._sequences)


def _square_norm(inputs: Tensor) -> Tensor:
    """Of each column, in float32. Each device has its own quick way, without a float32 copy of the inputs on a GPU."""
    if inputs.is_cuda:
        norm: Tensor = torch.linalg.vector_norm(inputs, dim=0, dtype=torch.float32)
        return norm.square()
    return inputs.to(torch.float32).square().sum(dim=0)


class _Work:
    """Wanda's part of the block-by-block skeleton."""

    def __init__(self, target: Target, options: WandaOptions, context: CompressionContext) -> None:
        self._target = target
        self._variant = options.variant
        self._context = context

    def observer(self, group: LinearGroup) -> InputNorm:
        return InputNorm(group, self._context.device)

    def compress(self, group: LinearGroup, observed: InputNorm) -> GroupResult:
        weights = [linear.module.weight for linear in group.linears]
        with Stopwatch(self._context.device) as watch:
            norm = observed.mean_square.sqrt()
            for weight in weights:
                prune(weight, norm, self._target, variant=self._variant)
            counts = torch.stack([torch.isfinite(norm).all(), *((weight == 0).sum() for weight in weights)]).tolist()
        if not counts.pop(0):
            raise BadCheckpoint(
                f"the inputs of {group.linears[0].name} hold NaN or infinity on the calibration text",
                hint="evaluate the dense checkpoint: it may overflow in its dtype, or be damaged",
            )
        sparsities = [zeros / weight.numel() for zeros, weight in zip(counts, weights, strict=True)]
        rows = sum(weight.shape[0] for weight in weights)
        reports = tuple(
            LayerReport(name=linear.name, sparsity=sparsity, seconds=watch.seconds * weight.shape[0] / rows)
            for linear, weight, sparsity in zip(group.linears, weights, sparsities, strict=True)
        )
        return GroupResult(layers=reports, notes=tuple(self._shortfalls(reports)))

    def _shortfalls(self, reports: Sequence[LayerReport]) -> list[str]:
        """Only the variant can miss its ratio: where the rows' scores are too uneven."""
        if not self._variant:
            return []
        assert isinstance(self._target, float)  # noqa: S101  the variant has no patterns
        return [
            f"{one.name}: the variant reached a sparsity of {one.sparsity:.3f} instead of {self._target:g}"
            for one in reports
            if one.sparsity is not None and abs(one.sparsity - self._target) > 2 * _TOLERANCE
        ]


def prune(weight: Tensor, norm: Tensor, target: Target, *, variant: bool = False) -> None:
    """Set to zero, in place, the weights [rows, in_features] that score least: |W| times the norm of their input.

    `norm` is float32 [in_features]. Of equal scores in a row the first go first.
    """
    if variant:
        assert isinstance(target, float)  # noqa: S101  the variant has no patterns
        weight.masked_fill_(choose_by_share(_scores(weight, norm), target), 0)
        return
    for part in torch.split(weight, max(1, _CHUNK_WEIGHTS // weight.shape[1])):
        scores = _scores(part, norm)
        part.masked_fill_(_smallest(scores, target), 0)


def _scores(weight: Tensor, norm: Tensor) -> Tensor:
    return weight.to(torch.float32).abs().mul_(norm)


def _smallest(scores: Tensor, target: Target) -> Tensor:
    if isinstance(target, float):
        return smallest_of_rows(scores, int(scores.shape[1] * target))
    return smallest_of_groups(scores, *target)


def choose_by_share(scores: Tensor, ratio: float) -> Tensor:
    """The variant of the authors' code: each row loses its smallest scores up to a share of the row's sum.

    The share is one for the matrix, found by bisection of 0 to 0.8 until the whole loses `ratio` to within 0.001, or
    the interval is narrower than that. The steps are taken on the device, those after the end without effect.
    """
    ascending = scores.sort(dim=1).values
    sums = ascending.cumsum(dim=1)
    total = scores.sum(dim=1, keepdim=True)
    below, above = scores.new_tensor(0.0), scores.new_tensor(_LARGEST_SHARE)
    share = (below + above) / 2
    for _ in range(_SHARE_STEPS):
        lost = _up_to_share(scores, ascending, sums, total * share).sum()
        excess = lost / scores.numel() - ratio
        going_on = (excess.abs() > _TOLERANCE) & (above - below >= _TOLERANCE)
        above = torch.where(going_on & (excess > 0), share, above)
        below = torch.where(going_on & (excess <= 0), share, below)
        share = torch.where(going_on, (below + above) / 2, share)
    return _up_to_share(scores, ascending, sums, total * share)


def _up_to_share(scores: Tensor, ascending: Tensor, sums: Tensor, limit: Tensor) -> Tensor:
    """True at the scores of each row that together stay within `limit`, and at those equal to the largest of them."""
    count = (sums <= limit).sum(dim=1, keepdim=True)
    threshold = ascending.gather(1, (count - 1).clamp_(min=0))
    return (scores <= threshold) & (count > 0)
