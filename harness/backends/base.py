"""What every deployment library is to the benchmark: an engine that serves one checkpoint and times one batch."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.backends.serving_memory import ServingPeak
from harness.contract import Device, Dtype, Frozen, MemoryParts, Scalar

Prompts = tuple[tuple[int, ...], ...]
Generated = tuple[int, ...] | str
"""What came after one prompt: token numbers, or text where the library does not give the numbers."""


@dataclass(frozen=True)
class EngineInfo:
    """What loading decided and cost. `notes` says what of the checkpoint this library makes no use of.

    `compile_seconds` is what compiling and capturing took beside loading; None where that is part of loading. An engine
    may know it only after its runs, and then replaces its `info`.
    """

    dtype: Dtype
    dtype_reason: str
    load_seconds: float
    notes: tuple[str, ...] = ()
    compile_seconds: float | None = None


@dataclass(frozen=True)
class TimedRun:
    """One batch, generated once. `generated_tokens` holds each sequence's count as the library reports it.

    `prefill_seconds` ends with the first token of every sequence; `decode_seconds` is the time of all later ones: taken
    apart within one generation where the library allows it, else the difference to generating one token after the same
    prompts. `step_seconds` are the times between successive tokens; empty where the library does not tell them.
    `generated` is what came after each prompt.
    """

    generated_tokens: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float
    step_seconds: tuple[float, ...] = ()
    generated: tuple[Generated, ...] = ()


class Engine(Protocol):
    """A loaded checkpoint. `peak` measures its memory: whoever has warmed it up says so there. `memory_parts` is what
    the peak held where the library tells, None until the engine is closed."""

    peak: ServingPeak
    memory_parts: MemoryParts | None

    @property
    def info(self) -> EngineInfo: ...

    def run(
        self, *, batch_size: int, prompt_tokens: int, generate_tokens: int, seed: int, prompts: Prompts | None = None
    ) -> TimedRun:
        """Generate exactly `generate_tokens` greedily after each of `batch_size` prompts of `prompt_tokens`.

        `prompts` None draws random ones with `seed`. Nothing that was computed for an earlier run is used again.
        """
        ...


class Serve(Protocol):
    """The function `serve` of every backend. Leaving the context frees what the engine holds."""

    def __call__(
        self,
        checkpoint: Path,
        device: Device,
        dtype: Dtype | None,
        *,
        context_tokens: int,
        batch_sizes: tuple[int, ...],
        kv_tokens: int,
        options: Mapping[str, Scalar],
        work: Path,
    ) -> AbstractContextManager[Engine]:
        """Load `checkpoint`, ready for each of `batch_sizes`, every sequence of up to `context_tokens`.

        Keys and values are kept for `kv_tokens` positions in all, reserved beforehand. `options` are the backend's own.
        `work` is an existing folder with room for a copy of the model; what is put there is removed again.

        Raises:
            Unsupported: the library cannot serve this checkpoint on this device.
            BadRequest: an option is not one of this backend's.
        """
        ...


@dataclass(frozen=True)
class Backend:
    """What the image's description offers by a name. `options` is the model of its own options.

    `dequantized_because`, for a backend that may hold packed weights as dense ones, says why it will do so with a
    checkpoint; None where it will not.
    """

    options: type[Frozen]
    serve: Serve
    dequantized_because: Callable[[Path, Device, Dtype | None, Mapping[str, Scalar]], str | None] | None = None


class BackendModule(Protocol):
    """What a backend's module offers; one whose description says `scores`, also `SCORING`.

    See `harness.evaluation.deployed.Scoring`.
    """

    BACKEND: Backend
