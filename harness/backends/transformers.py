"""Hugging Face transformers in eager mode: the reference that every other backend is compared with.

Computes with dense weights only: packed ones are dequantized on load, and zeros, and values that a quantization left,
are ordinary weights. Quantized activations are simulated, which takes time that an engine with such kernels would not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.backends.base import EngineInfo, TimedRun
from harness.backends.decoding import decode, random_prompts
from harness.contract import CheckpointFormat, Device, Dtype, Memory
from harness.models.loading import LoadedModel, load_model, select_device
from harness.telemetry import PeakMemory


class TransformersEngine:
    """A model in this process. See `harness.backends.base.Engine`."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.info = EngineInfo(
            loaded.dtype, loaded.dtype_reason, loaded.load_seconds, notes=_unused_compression(loaded)
        )
        self.memory: Memory | None = None
        self._loaded = loaded

    def run(self, *, batch_size: int, prompt_tokens: int, generate_tokens: int, seed: int) -> TimedRun:
        prompts = random_prompts(self._loaded, batch_size=batch_size, tokens=prompt_tokens, seed=seed)
        decoded = decode(self._loaded, prompts, generate_tokens)
        sequences, length = decoded.tokens.shape
        return TimedRun((length,) * sequences, decoded.prefill_seconds, decoded.decode_seconds)


@contextmanager
def serve(
    checkpoint: Path, device: Device, dtype: Dtype | None, *, context_tokens: int
) -> Iterator[TransformersEngine]:
    """See `harness.backends.base.Serve`. The key-value cache grows as needed, so `context_tokens` reserves nothing."""
    with PeakMemory(select_device(device)) as peak:
        engine = TransformersEngine(load_model(checkpoint, device, dtype))
        yield engine
    engine.memory = peak.memory


def _unused_compression(loaded: LoadedModel) -> tuple[str, ...]:
    descriptor, note = loaded.descriptor, loaded.quantization_note
    notes = []
    if descriptor.sparsity is not None:
        notes.append(
            f"served as dense weights: {descriptor.sparsity.measured:.1%} zeros ({descriptor.sparsity.pattern})"
            " bring no speed here"
        )
    if descriptor.quantization is not None:
        kind = "simulated" if descriptor.format is CheckpointFormat.DENSE else descriptor.format.value
        done = f" ({note})" if note else ""
        notes.append(f"served as dense weights: the {kind} quantization brings no speed here{done}")
    return tuple(notes)
