"""Greedy decoding with transformers' own key-value cache, prefill and decode timed apart."""

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.errors import BadRequest
from harness.telemetry import Stopwatch

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel


@dataclass(frozen=True)
class Decoded:
    """Generated tokens int64 [batch, generated], and the wall time of the first one and of all the others.

    `step_seconds` are the times between one token of the batch and the next, on the device's own clock. `cache_bytes`
    is what keys and values, of all tokens but the last, took in the end.
    """

    tokens: Tensor
    prefill_seconds: float
    decode_seconds: float
    step_seconds: tuple[float, ...]
    cache_bytes: int


class StepClock:
    """The times between its ticks, without waiting for the device: on a GPU, events in the queue of its work."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._ticks: list[Any] = []

    def tick(self) -> None:
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._ticks.append(event)
        else:
            self._ticks.append(time.perf_counter())

    def seconds(self) -> tuple[float, ...]:
        """Once the device has finished what was queued."""
        pairs = itertools.pairwise(self._ticks)
        if self._on_gpu:
            return tuple(before.elapsed_time(after) / 1000 for before, after in pairs)
        return tuple(after - before for before, after in pairs)


_ROTARY_OF_LENGTH = ("dynamic", "longrope")


def rotary_changes_with_length(config: Any) -> str | None:
    """The kind of rotary embedding whose angles depend on how long the sequence is by now; None for any other."""
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    return kind if kind in _ROTARY_OF_LENGTH else None


def check_lengths(prompt_tokens: int, generate_tokens: int, *, context: int) -> None:
    """Refuse a generation that the model's context cannot hold.

    Raises:
        BadRequest: prompt and generated tokens together exceed `context`.
    """
    if prompt_tokens + generate_tokens > context:
        raise BadRequest(
            f"{prompt_tokens} prompt and {generate_tokens} generated tokens exceed the model's context of {context}",
            hint="ask for fewer tokens, or use a model with a longer context",
        )


def random_prompts(loaded: "LoadedModel", *, batch_size: int, tokens: int, seed: int) -> Tensor:
    """int64 [batch, tokens], each drawn evenly from the vocabulary; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = int(loaded.model.config.vocab_size)
    return torch.randint(vocabulary, (batch_size, tokens), generator=generator).to(loaded.device)


@torch.inference_mode()
def decode(loaded: "LoadedModel", prompts: Tensor, generate_tokens: int) -> Decoded:
    """Continue each of `prompts` [batch, tokens] by `generate_tokens` tokens, an end-of-sequence token or not.

    The loop never reads a token on the host, so a GPU's queue stays full.
    """
    model: Any = loaded.model
    with Stopwatch(loaded.device) as prefill:
        output = model(input_ids=prompts, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(dim=-1)
    generated = [token]
    clock = StepClock(loaded.device)
    with Stopwatch(loaded.device) as rest:
        clock.tick()
        while len(generated) < generate_tokens:
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True, logits_to_keep=1)
            token = output.logits[:, -1:].argmax(dim=-1)
            generated.append(token)
            clock.tick()
    held = _held_bytes(output.past_key_values)
    return Decoded(torch.cat(generated, dim=1), prefill.seconds, rest.seconds, clock.seconds(), held)


def _held_bytes(cache: Any) -> int:
    """Keys and values, and in layers without attention the states that they keep instead."""
    held = (value for layer in cache.layers for value in vars(layer).values())
    return sum(value.nbytes for value in held if isinstance(value, Tensor) and value.is_floating_point())
