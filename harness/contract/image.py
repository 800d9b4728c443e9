"""What an image says about itself in `image.toml`, and answers to `describe`."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, PositiveInt

from harness.contract.artifact import CheckpointFormat
from harness.contract.base import DeviceKind, Frozen, Scalar, Wheel
from harness.contract.origin import DatasetSource, PackageModel, Source
from harness.contract.request import CalibrationPolicy, LayerWidthsExport, Operation

OPTIONS_NAME = "options.json"
"""Beside `image.toml`: below `methods` and `backends`, by name, a JSON Schema of the options that each takes.

A schema that says `"additionalProperties": false` lists every option. What has none is left to the worker to refuse.
"""


class CalibrationDefaults(Frozen):
    """The authors' own calibration: what is used where a manifest names nothing.

    `policy` holds for `dataset`; None, and any other data set, is drawn from in its usual way.
    """

    dataset: str
    samples: int
    sequence_length: int
    seed: int
    policy: CalibrationPolicy | None = None


class LayerWidths(StrEnum):
    """Whether all decoder layers of a checkpoint have the same sizes, as configurations of engines can say."""

    UNIFORM = "uniform"
    PER_LAYER = "per-layer"


class CheckpointTraits(Frozen):
    """What an engine needs to know of a method's checkpoint besides format and setting; None is left open.

    Holds where every one of `options` is given so (one that is left out is not), the setting, without its group, is
    among `settings` if there are any, and it is an `official-flag:N%` if `official_flag`. `activation_order`: groups of
    inputs in the order of their activations; `zeros`: removed weights are stored as zeros.
    """

    options: dict[str, Scalar] = {}
    settings: tuple[str, ...] = ()
    official_flag: bool = False
    symmetric: bool | None = None
    activation_order: bool | None = None
    zeros: bool | None = None
    layer_widths: LayerWidths | None = None


class MethodDescription(Frozen):
    """`patterns` lists the exact N:M and bit-width names accepted besides any ratio when `any_ratio` is set.

    With `official_flag`, so is any `official-flag:N%`; with `recovery`, the input `recovery` is a data set to train on.
    With `any_group`, a bit-width name of `patterns` is accepted with any group size as well. A checkpoint's format is
    `produces`, unless `produces_for` gives one for the setting (without its group), or `layouts` one for the value of
    the option `layout`, which comes first. Of the `traits` that hold, the last to state a property counts. `module` is
    the Python module that does the work (see `harness.methods.base.Method`), for images whose worker is the harness.
    `calibration` None: the method looks at weights alone, and is asked without calibration. `baseline`: it is what any
    method at one of its settings must beat to be worth its cost.
    """

    name: str
    module: str | None = None
    summary: str
    reference: str
    any_ratio: bool = False
    any_group: bool = False
    official_flag: bool = False
    recovery: bool = False
    patterns: tuple[str, ...] = ()
    default_setting: str
    calibration: CalibrationDefaults | None = None
    baseline: bool = False
    architectures: tuple[str, ...]
    produces: CheckpointFormat = CheckpointFormat.DENSE
    produces_for: dict[str, CheckpointFormat] = {}
    layouts: dict[str, CheckpointFormat] = {}
    traits: tuple[CheckpointTraits, ...] = ()


class ExportDescription(Frozen):
    """One change of layout that the image makes, and what it can carry. Empty `bits` and `group_sizes` mean any.

    `exact`: nothing is rounded, so that a measurement of the result is one of the source. `symmetric_only`: zeros other
    than the middle are refused; without `activation_order`, so are groups of inputs in the order of their activations.
    `layers` is asked for together with the target.
    """

    source: CheckpointFormat
    target: CheckpointFormat
    exact: bool
    bits: tuple[int, ...] = ()
    group_sizes: tuple[int, ...] = ()
    symmetric_only: bool = False
    activation_order: bool = False
    layers: LayerWidthsExport = LayerWidthsExport.KEPT
    summary: str


class BackendDescription(Frozen):
    """`run_by_us` says for each device what this project's authors ran with it; what is not there they did not run.

    `scores`: it gives the log-likelihoods of a prompt's own tokens, so that the image can evaluate through it. `module`
    is the Python module that does the work (see `harness.backends.base.BackendModule`), for images whose worker is the
    harness. `aliases` are its short names in a manifest.
    """

    name: str
    aliases: tuple[str, ...] = ()
    module: str | None = None
    summary: str
    formats: tuple[CheckpointFormat, ...]
    run_by_us: dict[DeviceKind, str] = {}
    scores: bool = False
    architectures: tuple[str, ...] = ()
    """For an image without a `support.toml`, whose rows say it. Empty: any that transformers knows by itself."""


class TaskDescription(Frozen):
    """`protocol` names how the figure is computed; `metric` is the one that enters the overall metric.

    `splits` names those of the data set that the task reads; empty where the image does not say. Where a manifest asks
    for the task that this one `stands_for`, models of `architectures` are evaluated on this one in its place.
    """

    name: str
    dataset: str
    splits: tuple[str, ...] = ()
    protocol: str
    metric: str
    higher_is_better: bool = True
    track: int = Field(ge=1, le=6, default=1)
    stands_for: str | None = None
    architectures: tuple[str, ...] = ()


class QuestionForm(Frozen):
    """How a row that asks something reads: texts in which `$name` stands for what the row's field of that name holds.

    `choices` are in the order that answers are numbered in; where one field holds all of them, `choices_in` says which,
    such as `choices.text`. Without either they are not told.
    """

    text: str
    choices: tuple[str, ...] = ()
    choices_in: str | None = None


class SplitDescription(Frozen):
    """Where one split's rows are: in a local data folder, in the hub repository, in the Python package's wheel.

    `local_part` says in words which part of the split the local file holds; None where it holds all. `question` says
    how a report quotes a row.
    """

    local: str
    local_part: str | None = None
    hub: str | None = None
    package: str | None = None
    question: QuestionForm | None = None


class DatasetDescription(Frozen):
    """`calibration_split` is the one whose text serves for calibration; None where the set cannot serve. `licence` is
    the rows' own, as their authors call it, which stands beside what a report quotes of them."""

    name: str
    splits: dict[str, SplitDescription]
    hub_repository: str | None = None
    hub_revision: str | None = None
    package: str | None = None
    package_version: str | None = None
    calibration_split: str | None = None
    licence: str | None = None


class PackagedModelDescription(Frozen):
    """A model that Python packages carry: the source `pypi:<package>==<version>`, and the wheels that make it up.

    `input_sizes` are those of its linears, which a plan holds groups against; empty where nobody has written them down.
    """

    package: str
    version: str
    architecture: str
    input_sizes: tuple[PositiveInt, ...] = ()
    wheels: Annotated[tuple[Wheel, ...], Field(min_length=1)]

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


class ImageDescription(Frozen):
    """The whole of `image.toml`. `parent` is the image that its Dockerfile builds on; None builds on the base image.

    `minimum_driver` is the oldest NVIDIA driver that the packages of its `cuda` lock, or of its children's, run on.
    `foundation` is a vendor's image, by its name in a registry, that it builds on instead of either. `harness_tasks`:
    it offers, besides `tasks`, every task that the harness defines (`harness.contract.tasks`).
    `converted_architectures` names, for a `model_type` that a fetch converts, the architecture that it makes of it.
    `prebuilt` is the whole image, ready made: `registry/name@sha256:…`, or the id of one that the engine has; nothing
    is built for it. `container_only` says why a process will not do. `command` is what a process of an image without
    the harness is started with; words that name files of the image's folder get its path. `wheels` are those that
    `datasets` are taken from, by the packages and versions that these name.
    """

    name: str
    summary: str
    operations: tuple[Operation, ...]
    devices: tuple[DeviceKind, ...]
    network: bool = False
    parent: str | None = None
    minimum_driver: str | None = Field(default=None, pattern=r"^\d+(\.\d+)*$")
    foundation: str | None = None
    prebuilt: str | None = Field(default=None, pattern=r"^([\w.:/-]+@)?sha256:[0-9a-f]{64}$")
    container_only: str | None = Field(default=None, min_length=1)
    command: tuple[str, ...] = ()
    methods: tuple[MethodDescription, ...] = ()
    exports: tuple[ExportDescription, ...] = ()
    backends: tuple[BackendDescription, ...] = ()
    tasks: tuple[TaskDescription, ...] = ()
    harness_tasks: bool = False
    models: tuple[PackagedModelDescription, ...] = ()
    converted_architectures: dict[str, str] = {}
    datasets: tuple[DatasetDescription, ...] = ()
    wheels: tuple[Wheel, ...] = ()

    def wheel_of(self, dataset: DatasetDescription) -> Wheel | None:
        """The wheel that carries a data set's rows; None where no package does, or its sha256 is not known."""
        named = (dataset.package, dataset.package_version)
        return next((wheel for wheel in self.wheels if (wheel.package, wheel.version) == named), None)

    def wheels_for(self, source: Source) -> tuple[Wheel, ...]:
        """Every wheel that a fetch of `source` may take something from."""
        if isinstance(source, PackageModel):
            known = (one.wheels for one in self.models if source.text == f"pypi:{one.requirement}")
            return source.wheels or next(known, ())
        if isinstance(source, DatasetSource):
            named = [one for one in self.datasets if one.name in (source.name, source.substitute)]
            return tuple(dict.fromkeys(wheel for one in named if (wheel := self.wheel_of(one)) is not None))
        return ()
