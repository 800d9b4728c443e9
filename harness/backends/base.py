"""What every deployment library is to the benchmark: an engine that serves one checkpoint and times one batch."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.contract import Device, Dtype, Memory


@dataclass(frozen=True)
class EngineInfo:
    """What loading decided and cost. `notes` says what of the checkpoint this library makes no use of."""

    dtype: Dtype
    dtype_reason: str
    load_seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TimedRun:
    """One batch, generated once. `generated_tokens` holds each sequence's count as the library reports it.

    `prefill_seconds` ends with the first token of every sequence; `decode_seconds` is the time of all later ones.
    """

    generated_tokens: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float


class Engine(Protocol):
    """A loaded checkpoint. `memory` is the peak since loading began; None until the engine is closed."""

    info: EngineInfo
    memory: Memory | None

    def run(self, *, batch_size: int, prompt_tokens: int, generate_tokens: int, seed: int) -> TimedRun:
        """Generate exactly `generate_tokens` greedily after each of `batch_size` random prompts drawn with `seed`."""
        ...


class Serve(Protocol):
    """The function `serve` of every backend module. Leaving the context frees what the engine holds."""

    def __call__(
        self, checkpoint: Path, device: Device, dtype: Dtype | None, *, context_tokens: int
    ) -> AbstractContextManager[Engine]:
        """Load `checkpoint`, ready for sequences of up to `context_tokens`.

        Raises:
            Unsupported: the library cannot serve this checkpoint on this device.
        """
        ...
