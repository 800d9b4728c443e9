"""The calibration sequences on their way through the decoder, one block at a time.

A block is called exactly as the model itself would call it: every argument besides the hidden states is recorded from
the model's own forward and replayed, and none is named here. Blocks are recorded one by one, since blocks of one model
may get different masks (sliding and full attention).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.architectures.blocks import Block
from harness.errors import BadCheckpoint, WorkerError


@dataclass(frozen=True)
class _Call:
    """What a block is given besides the hidden states."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass
class ActivationStream:
    """Hidden states before a block: `hidden[i]` is batch i, [batch, sequence, hidden], on the compute device or host.

    `calls[(batch, sequence)][block index]` is shared by all batches of a shape, since there is no padding.
    """

    hidden: list[Tensor]
    calls: dict[tuple[int, int], list[_Call]]
    device: torch.device
    offload: bool = False
    _sums: list[Tensor] = field(default_factory=list)

    def inputs(self, batch: int) -> Tensor:
        """One batch of hidden states on the compute device."""
        return self.hidden[batch].to(self.device, non_blocking=True)

    def forward(self, block: Block, batch: int) -> Tensor:
        """The block's output for one batch. The stream itself does not move."""
        return self.forward_of(block, batch, self.inputs(batch))

    def forward_of(self, block: Block, batch: int, hidden: Tensor) -> Tensor:
        """The block's output for other hidden states of the shape of `batch`."""
        call = self.calls[(hidden.shape[0], hidden.shape[1])][block.index]
        return _hidden_states(block, block.module(hidden, *call.arguments, **call.keywords))

    def put(self, batch: int, hidden: Tensor) -> None:
        """Replace one batch."""
        self._sums.append(hidden.sum(dtype=torch.float32))
        self.hidden[batch] = _keep(hidden, self.offload)

    def advance(self, block: Block) -> None:
        """Replace every batch by the block's output, so that the stream stands before the next block.

        Raises:
            BadCheckpoint: an output holds NaN or an infinity.
        """
        for batch in range(len(self.hidden)):
            self.put(batch, self.forward(block, batch))
        self.check(block)

    def check(self, block: Block) -> None:
        """Refuse what the block put out since the last check, if it is not finite.

        Raises:
            BadCheckpoint: an output holds NaN or an infinity.
        """
        finite = bool(torch.isfinite(torch.stack(self._sums)).all())
        self._sums.clear()
        if not finite:
            raise BadCheckpoint(
                f"the output of {block.name} holds NaN or infinity on the calibration text",
                hint="evaluate the dense checkpoint: it may overflow in its dtype, or be damaged",
            )

    def copy(self) -> "ActivationStream":
        """A second stream from the same place, for a method that follows the dense and the compressed model."""
        return replace(self, hidden=list(self.hidden), _sums=[])


@torch.no_grad()
def open_stream(
    model: nn.Module,
    blocks: Sequence[Block],
    sequences: Iterable[Tensor],
    *,
    batch_size: int,
    device: torch.device,
    offload: bool = False,
) -> ActivationStream:
    """Embed `sequences` (each int64 [tokens]) where the model lies, and stand before block 0.

    Neighbours of one length share a batch of at most `batch_size`. `offload` keeps what waits in host memory.
    """
    hidden: list[Tensor] = []
    calls: dict[tuple[int, int], list[_Call]] = {}
    for batch in _batches(sequences, batch_size):
        states, recorded = _record(model, blocks, batch)
        hidden.append(_keep(states if offload else states.to(device), offload))
        if tuple(batch.shape) not in calls:
            calls[batch.shape[0], batch.shape[1]] = _move(recorded, device)
    return ActivationStream(hidden, calls, device, offload)


def _batches(sequences: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    for _, alike in itertools.groupby(sequences, key=len):
        yield from torch.split(torch.stack(tuple(alike)), batch_size)


def _keep(hidden: Tensor, offload: bool) -> Tensor:
    """Where hidden states wait for the next block; page-locked on the host, so that they come back quickly."""
    if not offload or hidden.device.type == "cpu":
        return hidden
    return torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True).copy_(hidden)


@contextmanager
def resident(block: Block, device: torch.device) -> Iterator[None]:
    """Hold the block's weights on `device` meanwhile.

    On another device than their own it is a copy, and dropped at the end: what was changed in it must have been taken
    over by then (`harness.methods.skeleton.finished`). The block's own weights stay as they are.
    """
    away = {one: one.data for one in block.module.parameters() if one.device != device}
    for parameter, data in away.items():
        parameter.data = data.to(device, non_blocking=True)
    try:
        yield
    finally:
        for parameter, data in away.items():
            parameter.data = data


class _AllRecorded(Exception):
    """Every block has noted what it is given, so the rest of the model need not be computed."""


def _record(model: nn.Module, blocks: Sequence[Block], batch: Tensor) -> tuple[Tensor, list[_Call]]:
    """Run the model with blocks that only note what they are given and hand the hidden states on."""
    first: list[Tensor] = []
    calls: list[_Call] = []

    def note(states: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        first.append(states)
        calls.append(_Call(arguments, keywords))
        if len(calls) == len(blocks):
            raise _AllRecorded
        return states

    decoder: Any = model.get_submodule(model.base_model_prefix)  # type: ignore[arg-type]
    home = next(model.parameters()).device
    with forward_replaced([block.module for block in blocks], note), suppress(_AllRecorded):
        decoder(input_ids=batch.to(home), use_cache=False)
    return first[0], calls


@contextmanager
def forward_replaced(modules: Sequence[nn.Module], forward: Any) -> Iterator[None]:
    """Shadow `forward` on the instances: their class, attributes and hooks stay as the model expects them."""
    for module in modules:
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module in modules:
            del module.__dict__["forward"]


def _move(calls: Sequence[_Call], device: torch.device) -> list[_Call]:
    """The calls with their tensors on `device`; a tensor that several blocks share is moved once."""
    moved: dict[int, Tensor] = {}

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return moved.setdefault(id(value), value.to(device))
        if isinstance(value, tuple | list):
            return type(value)(move(part) for part in value)
        if isinstance(value, dict):
            return {key: move(part) for key, part in value.items()}
        return value

    return [_Call(move(call.arguments), move(call.keywords)) for call in calls]


def _hidden_states(block: Block, output: Any) -> Tensor:
    """A block of transformers 5 returns a tensor; older and foreign ones a tuple that starts with it."""
    states = output[0] if isinstance(output, tuple) else output
    if not isinstance(states, Tensor) or states.dim() != 3:
        raise WorkerError(
            f"{block.name} returned {type(output).__name__} instead of hidden states [batch, sequence, hidden]",
            hint="the installed transformers is not one that this harness was written for; use the image's lock",
        )
    return states
