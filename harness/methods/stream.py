"""The calibration sequences on their way through the decoder, one block at a time.

A block is called exactly as the model itself would call it: every argument besides the hidden states is recorded from
the model's own forward and replayed, and none is named here. Blocks are recorded one by one, since blocks of one model
may get different masks (sliding and full attention).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import BadCheckpoint, WorkerError
from harness.models.blocks import Block


@dataclass(frozen=True)
class _Call:
    """What a block is given besides the hidden states."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass
class ActivationStream:
    """Hidden states before a block: `hidden[i]` is batch i, [batch, sequence, hidden], on the compute device.

    `calls[batch_size][block index]` is shared by all batches of a size, since sequences have one length and no padding.
    """

    hidden: list[Tensor]
    calls: dict[int, list[_Call]]

    def forward(self, block: Block, batch: int) -> Tensor:
        """The block's output for one batch. The stream itself does not move."""
        hidden = self.hidden[batch]
        call = self.calls[hidden.shape[0]][block.index]
        return _hidden_states(block, block.module(hidden, *call.arguments, **call.keywords))

    def advance(self, block: Block) -> None:
        """Replace every batch by the block's output, so that the stream stands before the next block.

        Raises:
            BadCheckpoint: an output holds NaN or an infinity.
        """
        for batch in range(len(self.hidden)):
            self.hidden[batch] = self.forward(block, batch)
            if not bool(torch.isfinite(self.hidden[batch]).all()):
                raise BadCheckpoint(
                    f"the output of {block.name} holds NaN or infinity on the calibration text",
                    hint="evaluate the dense checkpoint: it may overflow in its dtype, or be damaged",
                )

    def copy(self) -> "ActivationStream":
        """A second stream from the same place, for a method that follows the dense and the compressed model."""
        return replace(self, hidden=list(self.hidden))


@torch.no_grad()
def open_stream(
    model: nn.Module, blocks: Sequence[Block], tokens: Tensor, *, batch_size: int, device: torch.device
) -> ActivationStream:
    """Embed `tokens` (int64 [samples, sequence]) where the model lies, and stand before block 0 on `device`."""
    hidden: list[Tensor] = []
    calls: dict[int, list[_Call]] = {}
    for batch in torch.split(tokens, batch_size):
        states, recorded = _record(model, blocks, batch)
        hidden.append(states.to(device))
        if batch.shape[0] not in calls:
            calls[batch.shape[0]] = _move(recorded, device)
    return ActivationStream(hidden, calls)


@contextmanager
def resident(block: Block, device: torch.device) -> Iterator[None]:
    """Hold the block's weights on `device`, and put them back where they were afterwards."""
    home = next(block.module.parameters()).device
    block.module.to(device)
    try:
        yield
    finally:
        block.module.to(home)


def _record(model: nn.Module, blocks: Sequence[Block], batch: Tensor) -> tuple[Tensor, list[_Call]]:
    """Run the model with blocks that only note what they are given and hand the hidden states on."""
    first: list[Tensor] = []
    calls: list[_Call] = []

    def note(states: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        first.append(states)
        calls.append(_Call(arguments, keywords))
        return states

    decoder: Any = model.get_submodule(model.base_model_prefix)  # type: ignore[arg-type]
    home = next(model.parameters()).device
    with _forward_replaced([block.module for block in blocks], note):
        decoder(input_ids=batch.to(home), use_cache=False)
    return first[0], calls


@contextmanager
def _forward_replaced(modules: Sequence[nn.Module], forward: Any) -> Iterator[None]:
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
