"""What every deployment library is to the benchmark: an engine that serves one checkpoint and times one batch."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

from pydantic import Field

from harness.backends.following import Following
from harness.backends.prompts import Prompts, drawn_prompts
from harness.backends.serving_memory import ServingPeak
from harness.checkpoint import open_checkpoint
from harness.contract import CheckpointDescriptor, CheckpointFormat, Device, Dtype, Frozen, MemoryParts

if TYPE_CHECKING:
    import torch

Generated = tuple[int, ...] | str
"""What came after one prompt: token numbers, or text where the library does not give the numbers."""


@dataclass(frozen=True)
class EngineInfo:
    """What loading decided and cost. `notes` says what of the checkpoint this library makes no use of; `dequantized`,
    whether its packed weights were made dense.

    `compile_seconds` is what compiling and capturing took beside loading; None where that is part of loading. An engine
    may know it only after its runs, and then replaces its `info`.
    """

    dtype: Dtype
    dtype_reason: str
    load_seconds: float
    notes: tuple[str, ...] = ()
    compile_seconds: float | None = None
    dequantized: bool = False


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


class TensorParallel(Frozen):
    """`tensor_parallel`: over how many GPUs of one host the matrices of each layer are split. They are those of the
    request, which are held together."""

    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1


Options = TypeVar("Options", bound=Frozen)


@dataclass(frozen=True)
class ServeOrder(Generic[Options]):
    """A checkpoint to load, ready for each of `batch_sizes`, every sequence of up to `context_tokens`.

    `dtype` None leaves it to the backend. Keys and values are kept for `kv_tokens` positions in all. `options` are the
    backend's own. `work` is an existing folder with room for a copy of the model; what is put there is removed again.
    """

    checkpoint: Path
    device: Device
    dtype: Dtype | None
    context_tokens: int
    batch_sizes: tuple[int, ...]
    kv_tokens: int
    options: Options
    work: Path

    @property
    def sequences(self) -> int:
        """The most at once."""
        return max(self.batch_sizes)

    @property
    def tensor_parallel(self) -> int:
        """Over how many GPUs the model is split: 1 with a backend that has no such option."""
        return self.options.tensor_parallel if isinstance(self.options, TensorParallel) else 1


@dataclass(frozen=True)
class BatchOrder:
    """Exactly `generate_tokens` to be generated after each of `batch_size` prompts of `prompt_tokens`.

    `prompts` None draws random ones with `seed`.
    """

    batch_size: int
    prompt_tokens: int
    generate_tokens: int
    seed: int
    prompts: Prompts | None = None

    def token_ids(self, vocabulary: int) -> Prompts:
        """The prompts that were given, or those drawn from `vocabulary`."""
        return self.prompts or drawn_prompts(vocabulary, self.batch_size, self.prompt_tokens, self.seed)


@dataclass(frozen=True)
class ServedWeights:
    """What a token costs at least: `token_bytes` of weights to read, once for the whole batch, the output head among
    them and input embeddings not. `products` are the dtypes that their products may be computed in; empty where that is
    not known, as with integer kernels of a library's own."""

    token_bytes: int
    products: tuple["torch.dtype", ...] = ()


def products_in(dtype: Dtype, device: "torch.device") -> tuple["torch.dtype", ...]:
    """What products of this dtype may be computed in: on a CPU also in float32, which may be the faster one there."""
    import torch

    from harness.models.loading import TORCH_DTYPES

    return tuple(dict.fromkeys([TORCH_DTYPES[dtype], *([torch.float32] if device.type == "cpu" else [])]))


class Engine(Protocol):
    """A loaded checkpoint. `peak` measures its memory: whoever has warmed it up says so there. `memory_parts` is what
    the peak held where the library tells, None until the engine is closed."""

    peak: ServingPeak
    memory_parts: MemoryParts | None

    @property
    def weights(self) -> ServedWeights: ...

    @property
    def vocabulary(self) -> int:
        """How many tokens there are to draw prompts from."""
        ...

    @property
    def info(self) -> EngineInfo: ...

    def run(self, batch: BatchOrder) -> TimedRun:
        """Generate greedily. Nothing that was computed for an earlier run is used again."""
        ...

    def follow(self, prompt: tuple[int, ...], generated: tuple[int, ...]) -> Mapping[int, Following]:
        """What greedily follows the prompt and the generated tokens before a place, by places of `generated`.

        Untimed, and computed without the steps that are timed: all that comes before is read as a prompt.
        """
        ...


def stored_dtype(order: ServeOrder[Any]) -> Dtype | None:
    """Packed weights stay packed, and others have the dtype that is asked for, or that of the checkpoint."""
    descriptor = open_checkpoint(order.checkpoint)
    return order.dtype or descriptor.dtype if descriptor.format is CheckpointFormat.DENSE else None


@dataclass(frozen=True)
class Backend(Generic[Options]):
    """What the image's description offers by a name. `options` is the model of its own options.

    `serve` loads what an order says; leaving its context frees what the engine holds. It raises Unsupported where the
    library cannot serve this checkpoint on this device. `dense_dtype` says which dtype the weights will have where they
    will lie in memory dense; None where they stay packed.
    """

    options: type[Options]
    serve: Callable[[ServeOrder[Options]], AbstractContextManager[Engine]]
    dense_dtype: Callable[[ServeOrder[Options]], Dtype | None] = stored_dtype


class BackendModule(Protocol):
    """What a backend's module offers; one whose description says `scores`, also `SCORING`.

    See `harness.evaluation.deployed.Scoring`.
    """

    BACKEND: Backend[Any]


def served_as_dense(descriptor: CheckpointDescriptor, *, unpacked: bool = False, why: str = "") -> tuple[str, ...]:
    """Notes on zeros and on quantized values that are ordinary weights to a library, in the words of every result.

    Packed ones are where they are `unpacked`. `why` ends the sentence on quantization.
    """
    notes = []
    if descriptor.sparsity is not None:
        notes.append(
            f"served as dense weights: {descriptor.sparsity.measured:.1%} zeros ({descriptor.sparsity.pattern})"
            " bring no speed here"
        )
    simulated = descriptor.format is CheckpointFormat.DENSE
    if descriptor.quantization is not None and (simulated or unpacked):
        kind = "simulated" if simulated else descriptor.format.value
        notes.append(f"served as dense weights: the {kind} quantization brings no speed here{why}")
    return tuple(notes)
