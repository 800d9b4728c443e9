"""What the orchestrator asks of a worker: one request, on stdin, then end of file."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter

from harness.contract.artifact import CheckpointFormat
from harness.contract.base import CONTRACT_VERSION, DeviceKind, Dtype, Frozen, Scalar
from harness.contract.origin import Source
from harness.contract.setting import Setting
from harness.contract.slices import Slice


class Operation(StrEnum):
    DESCRIBE = "describe"
    FETCH = "fetch"
    COMPRESS = "compress"
    EXPORT = "export"
    EVALUATE = "evaluate"
    STATES = "states"
    FIDELITY = "fidelity"
    PROFILE = "profile"
    BENCHMARK = "benchmark"


VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
TENSOR_PARALLEL = "tensor_parallel"


class Device(Frozen):
    """Where to compute. `uuids` names the GPUs; `threads` bounds the CPU threads (None: all that there are)."""

    kind: DeviceKind = DeviceKind.CPU
    uuids: tuple[str, ...] = ()
    threads: PositiveInt | None = None

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What makes a process see this device and no other, from before its first library loads.

        A GPU without a name is the first that `environment` shows.
        """
        if self.kind is DeviceKind.CPU:
            return {VISIBLE_GPUS: ""}
        first = environment.get(VISIBLE_GPUS, "0").split(",")[0]
        return {VISIBLE_GPUS: ",".join(self.uuids) or first}


class FetchParameters(Frozen):
    source: Source
    dtype: Dtype | None = None
    """The dtype to store a model's weights in; None keeps the source's own."""


class CalibrationPolicy(StrEnum):
    """How token sequences are drawn from the texts of a data set; docs/methods.md has each rule."""

    CROP = "crop"
    WINDOW = "window"
    WINDOW_PARAGRAPHS = "window-paragraphs"
    PACKED = "packed"
    JOINED = "joined"
    DOCUMENTS = "documents"


class Calibration(Frozen):
    """Calibration text, drawn from the input `calibration`. `sequence_length` is in tokens.

    `policy` None is the set's usual one. `evaluated` names those of the sets that may come, `dataset` and what may
    stand in for it, which tasks read too: calibrating on one favours the scores on these.
    """

    dataset: str
    samples: PositiveInt
    sequence_length: PositiveInt
    seed: NonNegativeInt
    policy: CalibrationPolicy | None = None
    evaluated: tuple[str, ...] = ()


class CompressParameters(Frozen):
    """`calibration` is None for a method that looks at weights alone; the input `calibration` is then absent, too.

    `offload_activations` keeps the calibration's hidden states in host memory: slower, for small GPUs.
    """

    method: str
    setting: Setting
    calibration: Calibration | None = None
    options: dict[str, Scalar] = {}
    offload_activations: bool = False


class LayerWidthsExport(StrEnum):
    """What becomes of layers that differ in width: nothing, a refusal, or zeros up to the widest."""

    KEPT = "kept"
    UNIFORM = "uniform"
    PADDED = "padded"


class ExportParameters(Frozen):
    """The layout to write a checkpoint in, in the checkpoint's own dtype."""

    target: CheckpointFormat
    layers: LayerWidthsExport = LayerWidthsExport.KEPT


REFERENCE_ENGINE = "transformers"
"""The engine whose figures the scores use, and which every protocol is defined by."""


class EvaluationSizes(Frozen):
    """What a manifest says once for all evaluations.

    `token_budget` bounds the tokens of one forward pass; None chooses it from the memory that is free. `processes` work
    on the items of each device, each with the model loaded for itself; CPU threads are divided among them. `dtype` is
    what is computed in; None leaves it to the engine.
    """

    token_budget: PositiveInt | None = None
    processes: PositiveInt = 1
    dtype: Dtype | None = None


class _ByEngine(Frozen):
    """`engine` computes the log-likelihoods: the reference, or a backend with the kernels that it serves by."""

    engine: str = REFERENCE_ENGINE

    def protocol_of(self, task_protocol: str) -> str:
        """What a task's protocol is called here: an engine that is not the reference stands before its name."""
        return task_protocol if self.engine == REFERENCE_ENGINE else f"{self.engine}/{task_protocol}"


class EvaluateParameters(_ByEngine, EvaluationSizes):
    """`limit` takes the first items (documents, or perplexity segments) of the task; None takes all. `slice` scores
    some of those that are left, drawn at random; None scores each.
    """

    task: str
    limit: PositiveInt | None = None
    slice: Slice | None = None


class StatesParameters(Frozen):
    """Keep the last hidden states of the input `checkpoint`, a dense model, over a task of text.

    `limit`, `token_budget` and `dtype` as in `EvaluateParameters`.
    """

    task: str
    limit: PositiveInt | None = None
    token_budget: PositiveInt | None = None
    dtype: Dtype | None = None


class FidelityParameters(_ByEngine):
    """Hold the next-token distributions of the input `checkpoint` against those of the dense model, whose `states` are
    the other input. `task` is that of the states, `limit` takes the first items that they hold; `dtype` is what is
    computed in."""

    task: str
    limit: PositiveInt | None = None
    dtype: Dtype | None = None


class ProfileParameters(Frozen):
    """MACs are counted for one forward of `macs_tokens`; memory while generating at `batch_size`.

    `dtype` is what is computed in; None leaves it to the worker.
    """

    macs_tokens: PositiveInt = 128
    prompt_tokens: PositiveInt = 128
    generate_tokens: PositiveInt = 32
    batch_size: PositiveInt = 1
    dtype: Dtype | None = None


class SpeedSizes(Frozen):
    """What a manifest says once for all backends: `repeats` timed runs follow `warmup` untimed ones, or more until they
    get no faster.

    `kv_tokens` is the number of positions that keys and values are reserved for; None is what the largest batch needs.
    Prompts are random token numbers drawn with `seed`, or those of the input `prompts`, where there is one. `dtype` is
    what is computed in; None leaves it to the backend.
    """

    prompt_tokens: PositiveInt = 128
    generate_tokens: PositiveInt = 128
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 8)
    warmup: PositiveInt = 1
    repeats: PositiveInt = 6
    dtype: Dtype | None = None
    seed: NonNegativeInt = 0
    kv_tokens: PositiveInt | None = None


class BenchmarkParameters(SpeedSizes):
    """Speed of a backend; `options` are its own."""

    backend: str
    options: dict[str, Scalar] = {}

    @property
    def tensor_parallel(self) -> int:
        """Over how many GPUs a backend splits the model: its option of that name, 1 without it."""
        asked = self.options.get(TENSOR_PARALLEL, 1)
        return asked if isinstance(asked, int) else 1

    @property
    def protocol(self) -> str:
        """The name of what is timed, without the batch size."""
        split = f"-tp{self.tensor_parallel}" if self.tensor_parallel > 1 else ""
        return f"speed/{self.prompt_tokens}-{self.generate_tokens}{split}"


HostPath = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]


class _Request(Frozen):
    contract: Literal[1] = CONTRACT_VERSION
    id: str


class _WorkRequest(_Request):
    """`inputs` maps a name to a read-only path; `output` is a writable directory that the worker may fill."""

    device: Device = Device()
    inputs: dict[str, HostPath] = {}
    output: HostPath


class DescribeRequest(_Request):
    operation: Literal["describe"] = "describe"


class FetchRequest(_WorkRequest):
    operation: Literal["fetch"] = "fetch"
    parameters: FetchParameters


class CompressRequest(_WorkRequest):
    operation: Literal["compress"] = "compress"
    parameters: CompressParameters


class ExportRequest(_WorkRequest):
    operation: Literal["export"] = "export"
    parameters: ExportParameters


class EvaluateRequest(_WorkRequest):
    operation: Literal["evaluate"] = "evaluate"
    parameters: EvaluateParameters


class StatesRequest(_WorkRequest):
    operation: Literal["states"] = "states"
    parameters: StatesParameters


class FidelityRequest(_WorkRequest):
    operation: Literal["fidelity"] = "fidelity"
    parameters: FidelityParameters


class ProfileRequest(_WorkRequest):
    operation: Literal["profile"] = "profile"
    parameters: ProfileParameters


class BenchmarkRequest(_WorkRequest):
    operation: Literal["benchmark"] = "benchmark"
    parameters: BenchmarkParameters


WorkRequest = (
    FetchRequest
    | CompressRequest
    | ExportRequest
    | EvaluateRequest
    | StatesRequest
    | FidelityRequest
    | ProfileRequest
    | BenchmarkRequest
)
Parameters = (
    FetchParameters
    | CompressParameters
    | ExportParameters
    | EvaluateParameters
    | StatesParameters
    | FidelityParameters
    | ProfileParameters
    | BenchmarkParameters
)
Request = Annotated[DescribeRequest | WorkRequest, Field(discriminator="operation")]
REQUEST: TypeAdapter[DescribeRequest | WorkRequest] = TypeAdapter(Request)
