"""LLM-Pruner (Ma, Fang and Wang, 2023, arXiv:2305.11627): whole heads and feed-forward channels are cut out.

What belongs together is in `coupled`, how much goes in `widths`, what goes in `scoring` and `unit_choice`; `recovery`
trains low-rank adapters afterwards. Covered: the authors' block-wise mode. Not covered: their channel-wise mode, which
cuts the hidden size, and their layer-wise mode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from harness.architectures.blocks import Block
from harness.architectures.pruned_shapes import LayerWidths, any_head_count, heads_can_go
from harness.checkpoint import read_config
from harness.contract import CompressParameters, LayerReport, Reason
from harness.errors import BadRequest, Unsupported
from harness.methods.base import CompressionContext, Outcome
from harness.methods.llm_pruner.coupled import block_units, cut, queries_per_unit
from harness.methods.llm_pruner.importance import Grouping, Taylor
from harness.methods.llm_pruner.recovery import RecoveryOptions, recover
from harness.methods.llm_pruner.reshaped import write_pruned
from harness.methods.llm_pruner.scoring import Importance, ScoringRule, score_blocks
from harness.methods.llm_pruner.unit_choice import Kept, ScoredBlock, choose_alike, choose_over_all
from harness.methods.llm_pruner.widths import (
    BlockWidths,
    ModelSize,
    measure,
    nearest_widths,
    official_layers,
    official_widths,
    step_widths,
)
from harness.options import parse_options
from harness.telemetry import Stopwatch

_UNIFORM_COSTS = (
    "pruning: all layers to one width, which engines can read, costs accuracy against the authors' choice of layers "
    "(export: original): on SmolLM2-135M at 20 % a WikiText-2 perplexity of 112.8 instead of 79.7"
)


class LlmPrunerOptions(RecoveryOptions):
    """`multiple` 0 chooses one; `first_layer` and `last_layer` (the first not pruned any more) -1 are the authors'.

    `export: auto` is uniform for a ratio and original for an official flag.
    """

    importance: Importance = "taylor"
    taylor: Taylor = "param_first"
    grouping: Grouping = "sum"
    export: Literal["auto", "uniform", "original"] = "auto"
    multiple: NonNegativeInt = 0
    first_layer: int = Field(default=-1, ge=-1)
    last_layer: int = Field(default=-1, ge=-1)
    global_pruning: bool = False
    iterative_steps: PositiveInt = 1
    batch_size: PositiveInt = 10


OPTIONS = {"llm-pruner": LlmPrunerOptions}


def parse(parameters: CompressParameters) -> "LlmPruner":
    """Read the setting and the options of a request.

    Raises:
        Unsupported: the setting is a pattern or a quantization.
        BadRequest: an option is unknown or out of range, or two of them contradict each other.
    """
    setting = parameters.setting
    if setting.ratio is None and setting.official_flag is None:
        raise Unsupported(
            Reason.SETTING,
            f"llm-pruner removes heads and channels, so it has no setting {setting.name!r}",
            hint="use a ratio of all parameters such as '20%', or 'official-flag:25%'",
        )
    options = parse_options(LlmPrunerOptions, parameters.options, "llm-pruner")
    uniform = options.export == "uniform" or (options.export == "auto" and setting.official_flag is None)
    if options.global_pruning and (uniform or setting.ratio is None):
        raise BadRequest(
            "global_pruning leaves layers of different widths, and needs a ratio of all parameters",
            hint="use a setting such as '20%' with `export: original`",
        )
    if uniform and (options.first_layer > 0 or options.last_layer >= 0):
        raise BadRequest(
            "a uniform checkpoint prunes every layer alike, so it has no first_layer and last_layer",
            hint="leave them out, or use `export: original`",
        )
    assert parameters.calibration is not None  # noqa: S101  the job has refused it
    return LlmPruner(setting.ratio, setting.official_flag, options, uniform=uniform, seed=parameters.calibration.seed)


class LlmPruner:
    """A parsed request; see `harness.methods.base.Compressor`. Exactly one of `ratio` and `flag` is given."""

    def __init__(
        self, ratio: float | None, flag: float | None, options: LlmPrunerOptions, *, uniform: bool, seed: int
    ) -> None:
        self._ratio = ratio
        self._flag = flag
        self._uniform = uniform
        self._seed = seed
        self.options = options

    def check(self, blocks: Sequence[Block]) -> None:
        layers = self._layers(len(blocks))
        if not layers or layers.stop > len(blocks):
            raise Unsupported(
                Reason.SHAPE,
                f"the layers from {layers.start} to before {layers.stop} are not among this model's {len(blocks)}",
                hint="choose first_layer and last_layer between 0 and the number of layers",
            )

    def compress(self, context: CompressionContext) -> Outcome:
        size = measure(context.model, context.blocks)
        final = self._final_widths(context, size)
        pruned = _prune(context, _Job(self.options, self._rule, size, final))
        widths = tuple(_widths_of(block) for block in context.blocks)
        recovery = recover(context, self.options, self._seed)
        left = sum(parameter.numel() for parameter in context.model.parameters())
        stated = write_pruned(context, widths, uniform=self._uniform)
        return Outcome(
            write=stated.write,
            layers=pruned,
            notes=(*self._notes(size, left, widths), *stated.notes, *recovery.notes),
            parameter_count=left,
            architecture=stated.architecture,
            recovery_seconds=recovery.seconds,
        )

    @property
    def _rule(self) -> ScoringRule:
        options = self.options
        return ScoringRule(
            options.importance, options.taylor, options.grouping, batch_size=options.batch_size, seed=self._seed
        )

    def _layers(self, blocks: int) -> range:
        if self._uniform:
            return range(blocks)
        usual = official_layers(blocks)
        first, last = self.options.first_layer, self.options.last_layer
        return range(usual.start if first < 0 else first, usual.stop if last < 0 else last)

    def _final_widths(self, context: CompressionContext, size: ModelSize) -> "_Final":
        layers = self._layers(size.blocks)
        if self.options.global_pruning:
            assert self._ratio is not None  # noqa: S101  parse has refused anything else
            return _Final(layers, None, round(self._ratio * size.total))
        config = read_config(context.source)
        if self._flag is not None:
            widths = official_widths(size, self._flag)
            _refuse_nothing_left(widths, self._flag)
            if self._uniform and widths.heads not in _allowed_heads(context, config, size):
                raise Unsupported(
                    Reason.SHAPE,
                    f"a uniform checkpoint of this architecture cannot have {widths.heads} key-value heads",
                    hint="use `export: original`, or a ratio of all parameters such as '20%'",
                )
            return _Final(layers, widths, 0)
        assert self._ratio is not None  # noqa: S101  one of the two is given
        allowed = _allowed_heads(context, config, size) if self._uniform else range(1, size.block.heads + 1)
        multiple = self.options.multiple or size.multiple
        widths = nearest_widths(size, self._ratio, len(layers), multiple=multiple, allowed_heads=allowed)
        return _Final(layers, widths, 0)

    def _notes(self, size: ModelSize, left: int, widths: Sequence[LayerWidths]) -> tuple[str, ...]:
        achieved = (size.total - left) / size.total
        asked = (
            f"official flag {self._flag:.2%}" if self._ratio is None else f"target {self._ratio:.2%} of the parameters"
        )
        layers = self._layers(size.blocks)
        changed = sorted({(widths[i].heads, widths[i].key_value_heads, widths[i].intermediate_size) for i in layers})
        shapes = "; ".join(f"{heads} heads, {key} key-value heads, {width} channels" for heads, key, width in changed)
        notes = [
            f"pruning: {asked}, removed {achieved:.2%} of them: {size.total} parameters before, {left} after",
            f"pruning: layers {layers.start} to {layers.stop - 1} of {size.blocks}; widths: {shapes[:400]}",
        ]
        if self._uniform:
            notes.append(_UNIFORM_COSTS)
        return tuple(notes)


@dataclass(frozen=True)
class _Final:
    """What pruning ends in: `widths` in each of `layers`, or, where None, `parameters` fewer over all of them."""

    layers: range
    widths: BlockWidths | None
    parameters: int


@dataclass(frozen=True)
class _Job:
    options: LlmPrunerOptions
    rule: ScoringRule
    size: ModelSize
    final: _Final


def _refuse_nothing_left(widths: BlockWidths, flag: float) -> None:
    if widths.heads < 1 or widths.channels < 1:
        raise Unsupported(
            Reason.SHAPE, f"the flag {flag:.2%} leaves a layer without heads or channels", hint="use a smaller flag"
        )


def _allowed_heads(context: CompressionContext, config: Mapping[str, Any], size: ModelSize) -> Sequence[int]:
    """Numbers of key-value heads that transformers can read from a config that holds for all layers."""
    if not heads_can_go(config):
        return (size.block.heads,)
    counts = range(1, size.block.heads + 1)
    if any_head_count(config):
        return counts
    shared = queries_per_unit(context.blocks[0])
    return [count for count in counts if int(config["hidden_size"]) % (count * shared) == 0]


def _widths_of(block: Block) -> LayerWidths:
    units = block_units(block)
    return LayerWidths(
        heads=units.heads.units * queries_per_unit(block),
        key_value_heads=units.heads.units,
        intermediate_size=units.channels.units,
    )


def _prune(context: CompressionContext, job: _Job) -> tuple[LayerReport, ...]:
    """Cut the model in place, in one or more steps."""
    before = {linear.name: linear.module.weight.numel() for block in context.blocks for linear in block.linears}
    steps = job.options.iterative_steps
    context.reporter.progress(0, steps, "pruning step")
    with Stopwatch(context.device) as watch:
        for step in range(1, steps + 1):
            scored = score_blocks(context, job.rule, job.final.layers)
            for index, kept in _choose(job, scored, step).items():
                for one, indices in zip(scored[index], kept, strict=True):
                    if len(indices) < one.units.units:
                        cut(one.units, indices, context.device)
            context.reporter.progress(step, steps, "pruning step")
    seconds = watch.seconds / len(before)
    return tuple(
        LayerReport(name=linear.name, sparsity=1 - linear.module.weight.numel() / before[linear.name], seconds=seconds)
        for block in context.blocks
        for linear in block.linears
    )


def _choose(job: _Job, scored: Mapping[int, ScoredBlock], step: int) -> dict[int, Kept]:
    steps = job.options.iterative_steps
    if job.final.widths is not None:
        return choose_alike(scored, step_widths(job.size, job.final.widths, step, steps))
    now = [BlockWidths(heads.units.units, channels.units.units) for heads, channels in scored.values()]
    outside = [job.size.block] * (job.size.blocks - len(now))
    gone = job.size.removed([*now, *outside])
    multiple = job.options.multiple or job.size.multiple
    return choose_over_all(scored, job.final.parameters * step // steps - gone, multiple)
