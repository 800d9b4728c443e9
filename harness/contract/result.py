"""What a worker found out: one result a request. Every figure carries its unit in its name."""

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from harness.contract.artifact import CheckpointDescriptor, DatasetDescriptor, StatesDescriptor
from harness.contract.base import Answer, Dtype, Sha256
from harness.contract.image import ImageDescription
from harness.contract.measurement import Bound, Memory, MemoryParts, MemoryPrediction, Speed, StartUp
from harness.contract.request import REFERENCE_ENGINE


class DescribeResult(Answer):
    operation: Literal["describe"] = "describe"
    image: ImageDescription


class FetchResult(Answer):
    operation: Literal["fetch"] = "fetch"
    artifact: Annotated[CheckpointDescriptor | DatasetDescriptor, Field(discriminator="artifact")]


class CompressionCost(Answer):
    """`compress_seconds` leaves out loading the model and writing the checkpoint, which are given beside it.

    `recovery_seconds` is the training after pruning, None where the method has none; it is not in `compress_seconds`.
    `resumed_blocks` were compressed by an earlier attempt: the seconds that it took for them count, those that it took
    to come back to where it stopped do not. `bounds` are what that time is possible by, measured in the same process.
    """

    load_seconds: NonNegativeFloat
    compress_seconds: NonNegativeFloat
    save_seconds: NonNegativeFloat
    recovery_seconds: NonNegativeFloat | None = None
    resumed_blocks: NonNegativeInt = 0
    memory: Memory
    bounds: tuple[Bound, ...] = ()


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class LayerReport(Answer):
    """`error` is the layer's reconstruction loss as the method defines it; None where it has none, or no finite one."""

    name: str
    sparsity: float | None = None
    error: Annotated[float | None, BeforeValidator(_finite)] = None
    seconds: NonNegativeFloat


class CompressResult(Answer):
    operation: Literal["compress"] = "compress"
    artifact: CheckpointDescriptor
    cost: CompressionCost
    layers: tuple[LayerReport, ...] = ()


class ExportResult(Answer):
    """`linears` counts the linears whose tensors were written anew."""

    operation: Literal["export"] = "export"
    artifact: CheckpointDescriptor
    linears: NonNegativeInt


class ProtocolDetails(Answer):
    """How an evaluation's figures were taken, in the words of docs/protocols.md.

    `scoring`: `summed` and `per-character` compare log-likelihoods of whole choices, `next-token` those of one token;
    `segments` and `rolling` are perplexities. `beginning_token` is what the tokenizer puts before a text by itself, as
    text; None where it puts nothing. `sequence_length` is a segment's, in tokens. `template_sha256` digests a template
    of this project's own.
    """

    scoring: str
    shots: NonNegativeInt = 0
    beginning_token: str | None = None
    sequence_length: PositiveInt | None = None
    template_sha256: str | None = None


class EvaluationCost(Answer):
    """What this attempt spent; `resumed_items` were scored by an earlier one, at no cost to this one.

    Preparing the items runs beside loading the model. `scored_items` and all token counts are those of `score_seconds`:
    `asked_tokens` is what a pass for each request would read, `computed_tokens` what the passes read in the end, with
    `padding_tokens` beside them. `model_operations` are the floating-point operations of the matrix products that they
    needed, attention included and padding not; None for a model whose shape is not known. The rate of them is that of
    all devices together; over a device's measured peak it is the model FLOPs utilisation. `processes` counts those that
    had the model loaded, over all devices. `bounds` are what that rate is possible by, measured in the same stage.
    """

    prepare_seconds: NonNegativeFloat
    load_seconds: NonNegativeFloat
    score_seconds: NonNegativeFloat
    scored_items: NonNegativeInt
    resumed_items: NonNegativeInt = 0
    asked_tokens: NonNegativeInt
    computed_tokens: NonNegativeInt
    padding_tokens: NonNegativeInt
    items_per_second: NonNegativeFloat | None = None
    tokens_per_second: NonNegativeFloat | None = None
    model_operations: NonNegativeInt | None = None
    model_operations_per_second: NonNegativeFloat | None = None
    parameter_count: PositiveInt
    processes: PositiveInt = 1
    bounds: tuple[Bound, ...] = ()


class EvaluateResult(Answer):
    """`metric` names the entry of `metrics` that enters the score. `items_file` holds one JSON line an item.

    `engine` computed the log-likelihoods; one that is not the reference stands before the protocol's name as well.

    `excluded` counts items that could not be scored, by reason: the denominator never shrinks without saying so.
    Of a slice, `drawn_from` is the number of items that it was drawn from, which are those that can be scored; what
    cannot is not among `excluded`. `truncated_items` lost the beginning of a context that is too long for the model;
    they are scored. `notes` says what was simulated of a quantized checkpoint, and what was chosen without being asked
    for.
    """

    operation: Literal["evaluate"] = "evaluate"
    task: str
    engine: str = REFERENCE_ENGINE
    protocol: str
    metric: str
    metrics: dict[str, float]
    items: PositiveInt
    items_available: PositiveInt
    drawn_from: PositiveInt | None = None
    excluded: dict[str, NonNegativeInt] = {}
    truncated_items: NonNegativeInt = 0
    items_file: str
    dataset_origin: str
    details: ProtocolDetails | None = None
    dtype: Dtype
    dtype_reason: str
    wall_seconds: NonNegativeFloat
    cost: EvaluationCost | None = None
    notes: tuple[str, ...] = ()


class StatesResult(Answer):
    """What the states of the artifact were computed in, and why; `score_seconds` leaves out loading the model."""

    operation: Literal["states"] = "states"
    artifact: StatesDescriptor
    dtype: Dtype
    dtype_reason: str
    load_seconds: NonNegativeFloat
    score_seconds: NonNegativeFloat
    notes: tuple[str, ...] = ()


class FidelityResult(Answer):
    """How far a model's next-token distributions are from the dense model's, over the same text.

    `metrics` follow from `items_file`, one JSON line an item: docs/protocols.md has each. `engine` gave the model's
    distributions, and `protocol` says how much of them; `states` is the digest of what they were held against.
    `excluded` counts items for which the model gave no finite numbers, by reason; `items` and `tokens` are those
    without them.
    """

    operation: Literal["fidelity"] = "fidelity"
    task: str
    engine: str = REFERENCE_ENGINE
    protocol: str
    states: Sha256
    metrics: dict[str, float]
    items: PositiveInt
    items_available: PositiveInt
    tokens: PositiveInt
    excluded: dict[str, NonNegativeInt] = {}
    items_file: str
    dtype: Dtype
    dtype_reason: str
    wall_seconds: NonNegativeFloat
    load_seconds: NonNegativeFloat
    score_seconds: NonNegativeFloat
    notes: tuple[str, ...] = ()


class ProfileResult(Answer):
    """`macs` maps a convention (`macs/shape`, `macs/density`, `macs/paper-bitops`) to multiply-accumulates.

    It is empty where the dimensions of the architecture are not known, with the reason in `macs_absent`; nothing is
    predicted then, and `kv_cache_bytes` are measured. `dequantized`: packed weights were made dense, so that its memory
    is not that of the format; None where it is not said. `bits_per_weight` is what a weight of the decoder's blocks
    takes in the files, with its share of scales and zeros, counted from the tensors. `notes` says what the measurement
    did with a quantized checkpoint.
    """

    operation: Literal["profile"] = "profile"
    disk_bytes: PositiveInt
    weight_bytes: PositiveInt
    parameter_count: PositiveInt
    bits_per_weight: PositiveFloat | None = None
    macs: dict[str, PositiveInt] = {}
    macs_absent: str | None = None
    macs_tokens: PositiveInt
    memory: Memory
    memory_parts: MemoryParts | None = None
    memory_prediction: MemoryPrediction | None = None
    kv_cache_bytes: NonNegativeInt
    protocol: str
    dtype: Dtype
    dtype_reason: str
    dequantized: bool | None = None
    notes: tuple[str, ...] = ()


class BenchmarkResult(Answer):
    """`kv_cache_tokens` is the room that was reserved for keys and values, the same for every backend. `memory` is the
    peak of the timed runs; that of getting ready for them is in `start_up`. `dequantized`: packed weights were made
    dense to serve them, so that neither speed nor memory is that of the format; None where it is not said."""

    operation: Literal["benchmark"] = "benchmark"
    backend: str
    protocol: str
    speeds: tuple[Speed, ...]
    load_seconds: NonNegativeFloat
    start_up: StartUp | None = None
    memory: Memory
    memory_parts: MemoryParts | None = None
    memory_prediction: MemoryPrediction | None = None
    kv_cache_tokens: PositiveInt | None = None
    dtype: Dtype
    dtype_reason: str
    dequantized: bool | None = None
    notes: tuple[str, ...] = ()


WorkResult = (
    FetchResult
    | CompressResult
    | ExportResult
    | EvaluateResult
    | StatesResult
    | FidelityResult
    | ProfileResult
    | BenchmarkResult
)
Result = Annotated[DescribeResult | WorkResult, Field(discriminator="operation")]
