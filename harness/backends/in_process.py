"""A model of the transformers library in this process, and the memory that it takes while it is served."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel  # imported here, so that loading does not count the time it takes

from harness.architectures.blocks import family_named
from harness.backends.base import (
    BatchOrder,
    EngineInfo,
    ServedWeights,
    ServeOrder,
    TimedRun,
    products_in,
    served_as_dense,
)
from harness.backends.following import Following, measured_tie_nats, moved_by_one_step
from harness.backends.serving_memory import ServingPeak
from harness.checkpoint import open_checkpoint
from harness.contract import Device, Dtype, MemoryParts
from harness.models.decoding import Decoded, rotary_changes_with_length
from harness.models.loading import LoadedModel, choose_dtype, select_device
from harness.profiling.memory import measured_parts, tensor_bytes
from harness.telemetry import PeakMemory, resident_bytes

_WHOLE_BITS = 16


class InProcessEngine(ABC):
    """See `harness.backends.base.Engine`."""

    def __init__(self, loaded: LoadedModel, peak: ServingPeak) -> None:
        self.loaded = loaded
        self.peak = peak
        self.info = EngineInfo(loaded.dtype, loaded.dtype_reason, loaded.load_seconds)
        self.memory_parts: MemoryParts | None = None

    @property
    def vocabulary(self) -> int:
        return int(self.loaded.model.config.vocab_size)

    @property
    def weights(self) -> ServedWeights:
        """As they lie in memory now."""
        model = self.loaded.model
        own: set[Any] = {getattr(module, "product_dtype", None) for module in model.modules()} - {None}
        usual = products_in(self.loaded.dtype, self.loaded.device)
        return ServedWeights(_token_bytes(model), (*usual, *own))

    @property
    @abstractmethod
    def kv_cache_bytes(self) -> int:
        """What keys and values take, or the most that they came to."""

    @abstractmethod
    def decode(self, prompts: Tensor, generate_tokens: int) -> Decoded:
        """Continue prompts, int64 [batch, tokens], greedily."""

    def run(self, batch: BatchOrder) -> TimedRun:
        prompts = torch.tensor(batch.token_ids(self.vocabulary), device=self.loaded.device)
        decoded = self.decode(prompts, batch.generate_tokens)
        sequences, length = decoded.tokens.shape
        generated = tuple(tuple(sequence) for sequence in decoded.tokens.tolist())
        return TimedRun(
            (length,) * sequences, decoded.prefill_seconds, decoded.decode_seconds, decoded.step_seconds, generated
        )

    @torch.inference_mode()
    def follow(self, prompt: tuple[int, ...], generated: tuple[int, ...]) -> Mapping[int, Following]:
        """One pass over all the tokens, by the model's own linears, without a cache and without a graph."""
        loaded = self.loaded
        if rotary_changes_with_length(loaded.model.config):
            return {}
        tokens = torch.tensor([[*prompt, *generated[:-1]]], device=loaded.device)
        logits = self._logits(tokens, len(generated))
        claimed = torch.tensor(generated, device=loaded.device)[:, None]
        best, chosen = logits.max(dim=-1)
        gaps, spreads = best - logits.gather(-1, claimed)[:, 0], logits.std(dim=-1)
        noise_nats = self._noise_nats(tokens, logits)
        found = zip(chosen.tolist(), gaps.tolist(), spreads.tolist(), strict=True)
        return {
            place: Following(token, gap, measured_tie_nats(loaded.dtype, noise_nats, spread))
            for place, (token, gap, spread) in enumerate(found)
        }

    def _noise_nats(self, tokens: Tensor, logits: Tensor) -> float:
        """By how much `logits` change with rounding; 0 where activations are not rounded to codes."""
        loaded = self.loaded
        quantization = loaded.descriptor.quantization
        if quantization is None or quantization.activation_bits >= _WHOLE_BITS:
            return 0.0
        blocks = loaded.model.get_submodule(family_named(type(loaded.model).__name__).blocks)
        with moved_by_one_step(blocks.children(), loaded.dtype):
            moved = self._logits(tokens, len(logits))
        return (moved - logits).square().mean().sqrt().item()

    def _logits(self, tokens: Tensor, kept: int) -> Tensor:
        """float32 [kept, vocabulary], of the last places of int64 [1, tokens]."""
        output = self.loaded.model(input_ids=tokens, use_cache=False, logits_to_keep=kept)
        return cast(Tensor, output.logits[0].float())


OpenedEngine = TypeVar("OpenedEngine", bound=InProcessEngine)


@contextmanager
def served_in_process(device: Device, open_engine: Callable[[ServingPeak], OpenedEngine]) -> Iterator[OpenedEngine]:
    """The engine that `open_engine` makes, its memory measured from before it loads."""
    where = select_device(device)
    with ServingPeak(partial(PeakMemory, where)) as peak:
        resident_before = resident_bytes()
        engine = open_engine(peak)
        yield engine
    engine.memory_parts = measured_parts(
        peak.memory,
        where,
        weight_bytes=tensor_bytes(engine.loaded.model),
        kv_cache_bytes=engine.kv_cache_bytes,
        resident_before_bytes=resident_before,
    )


def loaded_dtype(order: ServeOrder[Any]) -> Dtype:
    """What `harness.models.loading.load_model` makes of the weights, packed ones too."""
    dtype, _ = choose_dtype(open_checkpoint(order.checkpoint).dtype, order.device.kind, order.dtype)
    return dtype


def _token_bytes(model: PreTrainedModel) -> int:
    """Bytes of all tensors but input embeddings, of which a token reads its own row; packed ones as a kernel reads."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    kept = None if head is None else head.weight.data_ptr()
    rows = {module.weight.data_ptr() for module in model.modules() if isinstance(module, torch.nn.Embedding)} - {kept}
    tensors = {one.data_ptr(): one.nbytes for one in (*model.parameters(), *model.buffers())}
    packed = sum(int(getattr(module, "packed_bytes", 0)) for module in model.modules())
    return sum(size for address, size in tensors.items() if address not in rows) + packed


def unpacked_notes(loaded: LoadedModel, why: str | None = None) -> tuple[str, ...]:
    """What of the compression brings no speed to a model that was loaded dense, and `why` it was."""
    done = f" ({loaded.quantization_note})" if loaded.quantization_note else ""
    return served_as_dense(loaded.descriptor, unpacked=True, why=done + (f"; {why}" if why else ""))
