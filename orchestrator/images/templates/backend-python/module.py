"""@NAME@: a backend of the harness. What is special to the library is how `serve` loads and how `run` generates."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness.backends.base import Backend, EngineInfo, Prompts, TimedRun
from harness.backends.serving_memory import ServingPeak
from harness.contract import Device, Dtype, MemoryParts, Scalar
from harness.models.decoding import decode, random_prompts
from harness.models.loading import LoadedModel, load_model, select_device
from harness.options import NoOptions, parse_options
from harness.telemetry import PeakMemory


class Engine:
    """A loaded checkpoint; see `harness.backends.base.Engine`."""

    def __init__(self, loaded: LoadedModel, peak: ServingPeak) -> None:
        self.peak = peak
        self.memory_parts: MemoryParts | None = None
        self.info = EngineInfo(loaded.dtype, loaded.dtype_reason, loaded.load_seconds)
        self._loaded = loaded

    def run(
        self, *, batch_size: int, prompt_tokens: int, generate_tokens: int, seed: int, prompts: Prompts | None = None
    ) -> TimedRun:
        tokens = random_prompts(self._loaded, batch_size=batch_size, tokens=prompt_tokens, seed=seed)
        if prompts is not None:
            tokens = tokens.new_tensor(prompts)
        decoded = decode(self._loaded, tokens, generate_tokens)
        generated = tuple(tuple(sequence) for sequence in decoded.tokens.tolist())
        return TimedRun(
            generated_tokens=(decoded.tokens.shape[1],) * batch_size,
            prefill_seconds=decoded.prefill_seconds,
            decode_seconds=decoded.decode_seconds,
            step_seconds=decoded.step_seconds,
            generated=generated,
        )


@contextmanager
def serve(
    checkpoint: Path,
    device: Device,
    dtype: Dtype | None,
    *,
    context_tokens: int,
    batch_sizes: tuple[int, ...],
    kv_tokens: int,
    options: Mapping[str, Scalar],
    work: Path,
) -> Iterator[Engine]:
    """See `harness.backends.base.Serve`."""
    parse_options(NoOptions, options, "@NAME@")
    with ServingPeak(partial(PeakMemory, select_device(device))) as peak:
        yield Engine(load_model(checkpoint, device, dtype), peak)


BACKEND = Backend(NoOptions, serve)
