"""What a worker found out: one result a request. Every figure carries its unit in its name."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from harness.contract.artifact import CheckpointDescriptor, Descriptor
from harness.contract.base import DeviceKind, Dtype, Frozen
from harness.contract.image import ImageDescription


class Memory(Frozen):
    """Peak memory and how it was taken: `peak-rss` (host process) or `cuda-allocator` (bytes allocated by torch)."""

    peak_memory_bytes: NonNegativeInt
    method: str


class Environment(Frozen):
    """Provenance that only the worker can see."""

    harness_digest: str
    python: str
    platform: str
    device_kind: DeviceKind
    device_model: str
    driver: str | None = None
    threads: PositiveInt
    libraries: dict[str, str]


class DescribeResult(Frozen):
    operation: Literal["describe"] = "describe"
    image: ImageDescription


class FetchResult(Frozen):
    operation: Literal["fetch"] = "fetch"
    artifact: Descriptor


class CompressionCost(Frozen):
    """`compress_seconds` leaves out loading the model and writing the checkpoint, which are given beside it.

    `recovery_seconds` is the training after pruning, None where the method has none; it is not in `compress_seconds`.
    `resumed_blocks` were compressed by an earlier attempt: the seconds that it took for them count, those that it took
    to come back to where it stopped do not.
    """

    load_seconds: NonNegativeFloat
    compress_seconds: NonNegativeFloat
    save_seconds: NonNegativeFloat
    recovery_seconds: NonNegativeFloat | None = None
    resumed_blocks: NonNegativeInt = 0
    memory: Memory


class LayerReport(Frozen):
    """`error` is the layer's reconstruction loss as the method defines it; None where it computes none."""

    name: str
    sparsity: float | None = None
    error: float | None = None
    seconds: NonNegativeFloat


class CompressResult(Frozen):
    operation: Literal["compress"] = "compress"
    artifact: CheckpointDescriptor
    cost: CompressionCost
    layers: tuple[LayerReport, ...] = ()


class EvaluateResult(Frozen):
    """`metric` names the entry of `metrics` that enters the score. `items_file` holds one JSON line an item.

    `excluded` counts items that could not be scored, by reason: the denominator never shrinks without saying so.
    `notes` says what was simulated of a quantized checkpoint.
    """

    operation: Literal["evaluate"] = "evaluate"
    task: str
    protocol: str
    metric: str
    metrics: dict[str, float]
    items: PositiveInt
    items_available: PositiveInt
    excluded: dict[str, NonNegativeInt] = {}
    items_file: str
    dataset_origin: str
    dtype: Dtype
    dtype_reason: str
    wall_seconds: NonNegativeFloat
    notes: tuple[str, ...] = ()


class ProfileResult(Frozen):
    """`macs` maps a convention (`macs/shape`, `macs/density`, `macs/paper-bitops`) to multiply-accumulates.

    `notes` says what the measurement did with a quantized checkpoint, and so what its memory does not show.
    """

    operation: Literal["profile"] = "profile"
    disk_bytes: PositiveInt
    weight_bytes: PositiveInt
    parameter_count: PositiveInt
    macs: dict[str, PositiveInt]
    macs_tokens: PositiveInt
    memory: Memory
    kv_cache_bytes: NonNegativeInt
    protocol: str
    dtype: Dtype
    dtype_reason: str
    notes: tuple[str, ...] = ()


class Speed(Frozen):
    """One batch size. The figure is the median of `samples`, each the whole batch's decode tokens/s in a timed run."""

    batch_size: PositiveInt
    decode_tokens_per_second: PositiveFloat
    samples: tuple[PositiveFloat, ...]
    prefill_tokens_per_second: PositiveFloat


class BenchmarkResult(Frozen):
    operation: Literal["benchmark"] = "benchmark"
    backend: str
    protocol: str
    speeds: tuple[Speed, ...]
    load_seconds: NonNegativeFloat
    memory: Memory
    dtype: Dtype
    dtype_reason: str
    notes: tuple[str, ...] = ()


WorkResult = FetchResult | CompressResult | EvaluateResult | ProfileResult | BenchmarkResult
Result = Annotated[DescribeResult | WorkResult, Field(discriminator="operation")]
