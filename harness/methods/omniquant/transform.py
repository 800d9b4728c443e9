"""Learnable equivalent transformation (OmniQuant, section 3.3): scales and shifts that make a block easier to quantize.

What a norm or a linear puts out is divided by a learned scale, channel by channel, after a learned shift is taken off,
and the linears that read it make up for both; queries are divided by what keys are multiplied with. Each is exact, so
that without quantization the block's output stays as it was. Training and the final fold use the same expressions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.architectures.blocks import Block, LinearGroup, NamedLinear
from harness.methods.numerics.scaling import PairKind, divided_norm_weight, smoothable_pairs, storable_scale
from harness.methods.omniquant.clipping import Factors

_SMALLEST_FACTOR = 1e-2
_SMALLEST_STATISTIC = 1e-5
_MEMORY = 0.99
"""Of the running mean that a shift starts from: what is kept at each sequence."""
_USED = (PairKind.INPUT_NORM, PairKind.VALUE_OUTPUT, PairKind.MLP_NORM)
_PROBES = ("q_proj", "o_proj", "out_proj", "up_proj", "fc1")
"""The linear of each group whose weights the scale starts from."""
_INTERLEAVED = frozenset({"GlmForCausalLM", "Glm4ForCausalLM"})
"""Rotary embeddings that turn neighbouring channels; the others turn the halves of a head."""


class ChannelRange:
    """The inputs of one group: `largest` magnitude of each channel, and a running mean of the `middle` of its range."""

    def __init__(self, group: LinearGroup, device: torch.device) -> None:
        self.largest = torch.zeros(group.in_features, device=device)
        self.middle: Tensor | None = None

    def add(self, inputs: Tensor, sequences: int) -> None:
        inputs = inputs.view(sequences, -1, inputs.shape[-1])
        highest, lowest = inputs.amax(1).float(), inputs.amin(1).float()
        torch.maximum(self.largest, torch.maximum(highest, -lowest).amax(0), out=self.largest)
        for middle in (highest + lowest) / 2:
            self.middle = middle if self.middle is None else _MEMORY * self.middle + (1 - _MEMORY) * middle


@dataclass(frozen=True)
class Plan:
    """Which parts of the transformation a block allows; `notes` says why others were left out."""

    pairs: tuple[PairKind, ...]
    query_key: bool
    shift: bool
    notes: tuple[str, ...]


def plan_transformation(block: Block, *, query_key: bool, shift: bool) -> Plan:
    """What can be learned for `block` without changing its output. `shift` is granted where all biases are there.

    Raises:
        Unsupported: the block normalises after its parts.
    """
    pairs = smoothable_pairs(block)
    notes = [f"no scale between {kind.value}: {pairs.missing[kind]}" for kind in _USED if kind in pairs.missing]
    if query_key and hasattr(block.attention, "q_norm"):
        query_key = False
        notes.append("no scale between queries and keys: a norm stands between them and their projections")
    biased = all(linear.module.bias is not None for linear in block.linears)
    shifts = shift and biased and all(getattr(norm, "bias", None) is not None for norm in _norms(block))
    if shift and not shifts:
        notes.append("no shift: norms and linears have no biases to take it")
    return Plan(tuple(kind for kind in _USED if kind in pairs.found), query_key, shifts, tuple(notes))


@dataclass
class _Channels:
    """Channels between what writes them and what reads them: by local names, with what is learned.

    `norm_offset` is that of the family where a norm writes them.
    """

    before: str
    after: tuple[str, ...]
    scale: Tensor
    shift: Tensor | None
    norm_offset: int = 0


@dataclass
class Transformed:
    """The block's parameters as they become: factors of the linears' weights, and all others that change, by name."""

    factors: dict[str, Factors] = field(default_factory=dict)
    replaced: dict[str, Tensor] = field(default_factory=dict)


class EquivalentTransformation:
    """What is learned for one block. Names are those inside the block's module.

    `stored_as` is what the norms' weights will be rounded to, if not None; see `storable_scale`.
    """

    def __init__(
        self,
        block: Block,
        plan: Plan,
        ranges: Mapping[LinearGroup, ChannelRange],
        alpha: float,
        *,
        stored_as: torch.dtype | None = None,
    ) -> None:
        self._module = block.module
        self._stored_as = stored_as
        self._linears = {_local(block, linear): linear.module for linear in block.linears}
        self._norms: list[_Channels] = []
        self._values: _Channels | None = None
        for kind in plan.pairs:
            group = smoothable_pairs(block).found[kind].after
            scale, shift = _start(group, ranges[group], alpha, shift=plan.shift)
            after = tuple(_local(block, linear) for linear in group.linears)
            if kind is PairKind.VALUE_OUTPUT:
                self._values = _Channels(self._named("v_proj"), after, scale, shift)
            else:
                before = block.family.norms[kind is PairKind.MLP_NORM]
                self._norms.append(_Channels(before, after, scale, shift, block.family.norm_offset))
        self._heads = _Heads(block) if plan.query_key else None
        self.bound()

    def parameters(self) -> Iterator[Tensor]:
        """What there is to learn."""
        for channels in self._channels():
            yield channels.scale
            if channels.shift is not None:
                yield channels.shift
        if self._heads is not None:
            yield self._heads.scale

    @torch.no_grad()
    def bound(self) -> None:
        """Keep the scales away from 0, where they would overflow."""
        scales = [channels.scale for channels in self._channels()]
        for scale in [*scales, *([self._heads.scale] if self._heads else [])]:
            least = torch.where(scale < 0, -_SMALLEST_FACTOR, _SMALLEST_FACTOR)
            scale.copy_(torch.where(scale.abs() < _SMALLEST_FACTOR, least, scale))

    def apply(self) -> Transformed:
        """The parameters as the scales and shifts make them now, in float32 or better, with gradients."""
        result = Transformed()
        scales = {channels.before: self._held_scale(channels) for channels in self._channels()}
        columns, rows = self._factors(scales)
        for channels in self._norms:
            divided = _divided(self._module.get_submodule(channels.before), channels, scales[channels.before])
            result.replaced |= {f"{channels.before}.{key}": value for key, value in divided.items()}
        for name, linear in self._linears.items():
            result.factors[name] = Factors(columns.get(name), rows.get(name))
            if linear.bias is not None and (name in columns or name in rows):
                result.replaced[f"{name}.bias"] = self._bias(name, linear, rows.get(name))
        return result

    def _held_scale(self, channels: _Channels) -> Tensor:
        """The scale as the norm's stored weight will hold it; its gradient is that of the scale."""
        if self._stored_as is None or not channels.norm_offset:
            return channels.scale
        learned = channels.scale.detach()
        weight = self._module.get_submodule(channels.before).get_parameter("weight").detach()
        held = storable_scale(weight, learned, self._stored_as, offset=channels.norm_offset)
        return channels.scale + (held - learned)

    def _factors(self, scales: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        columns = {name: scales[channels.before] for channels in self._channels() for name in channels.after}
        rows: dict[str, Tensor] = {}
        if self._values is not None:
            rows[self._values.before] = 1 / self._values.scale
        if self._heads is not None:
            rows[self._named("q_proj")] = 1 / self._heads.of_queries()
            rows[self._named("k_proj")] = self._heads.of_keys()
        return columns, rows

    def _bias(self, name: str, linear: nn.Linear, rows: Tensor | None) -> Tensor:
        """Takes in what a shift took off the inputs, loses what one takes off the outputs, and is scaled with them."""
        bias: Tensor = linear.bias
        for channels in self._channels():
            if channels.shift is not None and name in channels.after:
                bias = bias + linear.weight.to(channels.shift.dtype) @ channels.shift
            if channels.shift is not None and name == channels.before:
                bias = bias - channels.shift
        return bias if rows is None else bias * rows

    def _channels(self) -> Iterator[_Channels]:
        yield from self._norms
        if self._values is not None:
            yield self._values

    def _named(self, suffix: str) -> str:
        return next(name for name in self._linears if name.endswith(suffix))


class _Heads:
    """One scale for each channel of a key head, the same for the two channels that a rotary embedding turns.

    The queries that share a key head share its scales.
    """

    def __init__(self, block: Block) -> None:
        linears = {linear.name.rpartition(".")[2]: linear.module for linear in block.groups[0].linears}
        keys = linears["k_proj"].weight
        attention: Any = block.attention
        shared = sharing(block)
        self._shared = shared.to(keys.device)
        self._queries_each = linears["q_proj"].out_features // len(keys)
        self.scale = torch.ones(
            len(keys) // attention.head_dim, int(shared.max()) + 1, dtype=_working(keys), device=keys.device
        )

    def of_keys(self) -> Tensor:
        return self.scale[:, self._shared].flatten()

    def of_queries(self) -> Tensor:
        return self.scale[:, self._shared].repeat_interleave(self._queries_each, dim=0).flatten()


def sharing(block: Block) -> Tensor:
    """For each channel of a head, int64 [head_dim], the number of its scale: channels turned together share one."""
    attention: Any = block.attention
    turned = _rotary_channels(attention)
    if _INTERLEAVED & set(block.family.architectures):
        pairs = torch.arange(turned) // 2
    else:
        pairs = torch.arange(turned) % max(turned // 2, 1)
    return torch.cat([pairs, torch.arange(attention.head_dim - turned) + turned // 2])


def _rotary_channels(attention: Any) -> int:
    rotary = getattr(attention.config, "rope_parameters", None)
    return int(attention.head_dim * rotary.get("partial_rotary_factor", 1.0)) if rotary else 0


def _start(group: LinearGroup, seen: ChannelRange, alpha: float, *, shift: bool) -> tuple[Tensor, Tensor | None]:
    """a**alpha / w**(1 - alpha), from the magnitudes of inputs a and of one linear's weights w; the middle as shift."""
    weight = next(linear.module.weight for linear in group.linears if linear.name.endswith(_PROBES))
    working = _working(weight)
    inputs = seen.largest.to(working).clamp(min=_SMALLEST_STATISTIC)
    weights = weight.abs().amax(0).to(working).clamp(min=_SMALLEST_STATISTIC)
    scale = (inputs**alpha / weights ** (1 - alpha)).clamp(min=_SMALLEST_STATISTIC)
    return scale, seen.middle.to(working) if shift and seen.middle is not None else None


def _working(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _divided(norm: nn.Module, channels: _Channels, scale: Tensor) -> dict[str, Tensor]:
    parameters: dict[str, Tensor] = dict(norm.named_parameters())
    result = {"weight": divided_norm_weight(parameters["weight"], scale, offset=channels.norm_offset)}
    if "bias" in parameters:
        bias = parameters["bias"]
        result["bias"] = (bias if channels.shift is None else bias - channels.shift) / scale
    return result


def _norms(block: Block) -> Sequence[nn.Module]:
    return block.input_norm, block.mlp_norm


def _local(block: Block, linear: NamedLinear) -> str:
    return linear.name.removeprefix(f"{block.name}.")
