"""Gradients of the language-model loss by the decoder's weights, with one block on the device at a time.

Forward through the blocks, keeping only each block's inputs; the loss and its gradient at the head; then backward
through the blocks, each recomputed from its inputs. Everything is computed in float32: in float16 the gradients of a
mean over hundreds of tokens underflow. The result is that of one `loss.backward()` through the whole model.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.architectures.blocks import Block
from harness.errors import BadCheckpoint, BadRequest
from harness.methods.base import CompressionContext
from harness.methods.skeleton.stream import ActivationStream, forward_replaced, open_stream


@dataclass(frozen=True)
class WeightGradient:
    """By one linear's weight, float32 on the device: of the mean loss over all tokens, and the mean square of the
    gradients of each sequence's own loss (None where it was not asked for)."""

    loss: Tensor
    mean_square: Tensor | None


def block_gradients(
    context: CompressionContext, *, batch_size: int, per_sequence: bool = False
) -> Iterator[tuple[Block, Mapping[str, WeightGradient]]]:
    """Each block, last first, with the gradients of its linears by name. Its weights are on the device meanwhile.

    Raises:
        BadRequest: a sequence has a single token, so nothing is predicted.
        BadCheckpoint: a hidden state, the loss or a gradient is not finite.
    """
    if any(len(sequence) < 2 for sequence in context.sequences):
        raise BadRequest(
            "a calibration sequence has a single token, so there is nothing to predict",
            hint="use sequences of at least two tokens",
        )
    stream = _float_stream(context, 1 if per_sequence else batch_size)
    inputs: list[list[Tensor]] = []
    with torch.no_grad():
        for block in context.blocks:
            inputs.append(list(stream.hidden))
            with borrowed([block.module], context.device):
                stream.advance(block)
    gradients = _at_head(context, stream)
    for block, states in zip(reversed(context.blocks), reversed(inputs), strict=True):
        with borrowed([block.module], context.device):
            found, gradients = _through_block(stream, block, states, gradients, per_sequence=per_sequence)
            _refuse_infinite(block, found)
            yield block, found


def _float_stream(context: CompressionContext, batch_size: int) -> ActivationStream:
    stream = open_stream(
        context.model,
        context.blocks,
        context.sequences,
        batch_size=batch_size,
        device=context.device,
        offload=context.offload_activations,
    )
    return replace(stream, hidden=[states.float() for states in stream.hidden], calls=_as_float(stream.calls))


def _as_float(value: Any) -> Any:
    """The recorded arguments of the blocks with their floating-point tensors (masks, rotations) in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_as_float(part) for part in value)
    if isinstance(value, dict):
        return {key: _as_float(part) for key, part in value.items()}
    if hasattr(value, "keywords"):
        return replace(value, arguments=_as_float(value.arguments), keywords=_as_float(value.keywords))
    return value


@contextmanager
def borrowed(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Hold the modules' weights on `device` in float32; afterwards they are the very tensors that they were."""
    held = {id(one): one for module in modules for one in (*module.parameters(), *module.buffers())}
    before = {key: one.data for key, one in held.items()}
    try:
        for one in held.values():
            one.data = one.data.to(device, torch.float32 if one.is_floating_point() else one.dtype)
        yield
    finally:
        for key, one in held.items():
            one.data = before[key]


def _at_head(context: CompressionContext, stream: ActivationStream) -> list[Tensor]:
    """For each batch, the gradient of the mean loss over all predicted tokens by the last block's output."""
    tokens = torch.split(_flat_tokens(context), [states.shape[0] * states.shape[1] for states in stream.hidden])
    predicted = sum(states.shape[0] * (states.shape[1] - 1) for states in stream.hidden)
    gradients = []
    losses = []
    with borrowed(_outside_blocks(context), context.device):
        for batch, states in enumerate(stream.hidden):
            leaf = stream.inputs(batch).detach().requires_grad_()
            wanted = tokens[batch].view(states.shape[0], states.shape[1]).to(context.device)
            with torch.enable_grad():
                logits = _logits(context, leaf)
                loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), wanted[:, 1:].flatten(), reduction="sum")
                (gradient,) = torch.autograd.grad(loss / predicted, leaf)
            gradients.append(gradient)
            losses.append(loss.detach())
    if not bool(torch.isfinite(torch.stack(losses)).all()):
        raise BadCheckpoint(
            "the loss on the calibration text is not finite",
            hint="evaluate the dense checkpoint: it may overflow in its dtype, or be damaged",
        )
    return gradients


def _flat_tokens(context: CompressionContext) -> Tensor:
    return torch.cat([sequence.flatten() for sequence in context.sequences])


def _outside_blocks(context: CompressionContext) -> list[nn.Module]:
    """What comes after the blocks, whatever the architecture calls it: each leaf module but theirs and the embedding.

    A tied output embedding is one of them.
    """
    inside = {id(part) for block in context.blocks for part in block.module.modules()}
    embedding = context.model.get_input_embeddings()
    return [
        part
        for part in context.model.modules()
        if id(part) not in inside and part is not embedding and not any(True for _ in part.children())
    ]


def _logits(context: CompressionContext, states: Tensor) -> Tensor:
    """The model's own way from the last block's output to the logits; the blocks are left out."""
    model: Any = context.model
    width = model.get_input_embeddings().weight.shape[1]
    embedded = states.new_zeros(states.shape[0], states.shape[1], width)
    with forward_replaced([block.module for block in context.blocks], lambda *_, **__: states):
        logits: Tensor = model(inputs_embeds=embedded, use_cache=False).logits
        return logits


def _through_block(
    stream: ActivationStream, block: Block, states: Sequence[Tensor], above: Sequence[Tensor], *, per_sequence: bool
) -> tuple[dict[str, WeightGradient], list[Tensor]]:
    """The gradients by the block's weights and by its inputs, given those by its outputs."""
    weights = {linear.name: linear.module.weight for linear in block.linears}
    loss = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()} if per_sequence else {}
    all_predicted = sum(one.shape[0] * (one.shape[1] - 1) for one in states)
    below = []
    for weight in weights.values():
        weight.requires_grad_()
    try:
        for batch, (inputs, gradient) in enumerate(zip(states, above, strict=True)):
            leaf = inputs.to(stream.device).detach().requires_grad_()
            with torch.enable_grad():
                output = stream.forward_of(block, batch, leaf)
                found = torch.autograd.grad(output, [leaf, *weights.values()], gradient)
            below.append(found[0])
            for name, one in zip(weights, found[1:], strict=True):
                loss[name] += one
                if per_sequence:
                    own = all_predicted / (inputs.shape[1] - 1)  # from its part of the mean loss to its own loss
                    squares[name].addcmul_(one * own, one * own, value=1 / len(states))
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
    return {name: WeightGradient(loss[name], squares.get(name)) for name in weights}, below


def _refuse_infinite(block: Block, found: Mapping[str, WeightGradient]) -> None:
    sums = torch.stack([one.loss.sum(dtype=torch.float64) for one in found.values()])
    if bool(torch.isfinite(sums).all()):
        return
    name = next(name for name, one in found.items() if not bool(torch.isfinite(one.loss).all()))
    raise BadCheckpoint(
        f"the gradient of the loss by the weight of {name} is not finite",
        hint="evaluate the dense checkpoint: it may overflow in its dtype, or be damaged",
    )
