"""@NAME@: a method on the harness's block-by-block skeleton. What is special to the method is `_Work.compress`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.architectures.blocks import Block, LinearGroup
from harness.contract import CompressParameters, LayerReport
from harness.methods.base import CompressionContext, Outcome
from harness.methods.skeleton.saving import finish
from harness.methods.skeleton.sequential import GroupResult, Sequential, compress_blocks
from harness.methods.sparsity import Target, refuse_broken_patterns, sparsity_of, target_of
from harness.methods.wanda import prune
from harness.options import NoOptions, parse_options
from harness.telemetry import Stopwatch

OPTIONS = {"@NAME@": NoOptions}


def parse(parameters: CompressParameters) -> "Method":
    """Read the setting and the options of a request."""
    options = parse_options(NoOptions, parameters.options, "@NAME@")
    return Method(target_of(parameters.setting, "@NAME@"), options)


class Method:
    """A parsed request; see `harness.methods.base.Compressor`."""

    def __init__(self, target: Target, options: NoOptions) -> None:
        self._target = target
        self.options = options

    def check(self, blocks: Sequence[Block]) -> None:
        refuse_broken_patterns(blocks, self._target)

    def compress(self, context: CompressionContext) -> Outcome:
        skeleton = Sequential(context, _Work(self._target, context), batch_size=4)
        return finish(context, compress_blocks(context, skeleton), sparsity=sparsity_of(self._target))


class _Observed:
    """What is kept of a linear's inputs, float [rows, in_features], while the calibration text passes: nothing here."""

    def add(self, inputs: Tensor, sequences: int) -> None:
        pass


class _Work:
    def __init__(self, target: Target, context: CompressionContext) -> None:
        self._target = target
        self._context = context

    def observer(self, group: LinearGroup) -> _Observed:
        return _Observed()

    def compress(self, group: LinearGroup, observed: _Observed) -> GroupResult:
        """Change the weights of these linears, which read the same inputs, in place."""
        reports = []
        for linear in group.linears:
            weight = linear.module.weight
            with Stopwatch(self._context.device) as watch:
                prune(weight, torch.ones(weight.shape[1], device=weight.device), self._target)
            sparsity = float((weight == 0).float().mean())
            reports.append(LayerReport(name=linear.name, sparsity=sparsity, seconds=watch.seconds))
        return GroupResult(layers=tuple(reports))
