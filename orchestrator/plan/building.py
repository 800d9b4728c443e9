"""Manifest to stages: which images do what, in which order, and what is known beforehand to be impossible."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from harness.contract import (
    REFERENCE_ENGINE,
    BackendDescription,
    BenchmarkParameters,
    Calibration,
    CompressParameters,
    Device,
    MethodDescription,
    Operation,
    ProfileParameters,
    Reason,
    Scalar,
    TaskDescription,
)
from orchestrator.errors import BadManifest, located
from orchestrator.images.catalog import Image, ImageCatalog
from orchestrator.manifest import BenchmarkEntry, CompressEntry, Manifest, ModelEntry
from orchestrator.manifest.data_sources import without_folder
from orchestrator.manifest.excluding import Exclusions
from orchestrator.manifest.sources import ModelSource, parse_model, refuse_unknown_package, refuse_unpinned
from orchestrator.plan.architectures import (
    ConfigLookUp,
    known_architectures,
    known_input_sizes,
    refusal,
    stated_architecture,
)
from orchestrator.plan.data import DataSources, data_sources
from orchestrator.plan.evaluating import Engine, scoring_refusal, task_for, task_stages
from orchestrator.plan.exclusions import planned_exclusions
from orchestrator.plan.exporting import Way, export_stage, find_way
from orchestrator.plan.fetching import Fetches
from orchestrator.plan.options import check_options
from orchestrator.plan.resolving import (
    resolve_backend,
    resolve_calibration,
    resolve_engine,
    resolve_method,
    resolve_setting,
)
from orchestrator.plan.rounds import first_of, in_rounds
from orchestrator.plan.serving import compressed_checkpoint, computed_in
from orchestrator.plan.support import Checkpoint, Refused
from orchestrator.plan.variants import Advice, Asked
from orchestrator.stages import Input, Limits, NotPlanned, Plan, Stage, StageOutput, Subject
from orchestrator.tracks import parts_of_task

_NOT_KNOWN = "the architecture is not known before the model is there, so that a method or backend may yet refuse it"


@dataclass(frozen=True)
class _Variant:
    """A model as it is or compressed: the stage that makes the checkpoint, and what is known of that beforehand."""

    subject: Subject
    checkpoint: str
    known: Checkpoint
    accuracy_only: bool = False
    asked: Asked | None = None
    input_sizes: tuple[int, ...] = ()


@dataclass
class _Builder:
    manifest: Manifest
    catalog: ImageCatalog
    device: Device
    data: Path | None
    sources: DataSources
    exclusions: Exclusions
    stages: dict[str, Stage] = field(default_factory=dict)
    not_planned: list[NotPlanned] = field(default_factory=list)
    chosen: dict[str, list[str]] = field(default_factory=dict)
    useful: set[int] = field(default_factory=set)

    @cached_property
    def advice(self) -> Advice:
        return Advice(self.catalog, self.device)

    @property
    def first_device(self) -> Device:
        """For what works on one device: all but evaluations, which are spread over all GPUs."""
        return self.device.model_copy(update={"uuids": self.device.uuids[:1]})

    @property
    def fetch_image(self) -> Image:
        return self.catalog.only(Operation.FETCH)

    @property
    def fetches(self) -> Fetches:
        return Fetches(self.fetch_image, self.limits, self.data, self.sources)

    @property
    def evaluated(self) -> set[str]:
        """The data sets that tasks read."""
        return {task.dataset for _, task in self.catalog.tasks.values()}

    @property
    def limits(self) -> Limits:
        memory_gib = self.manifest.limits.memory_gib
        return Limits(
            deadline_seconds=self.manifest.limits.deadline_seconds,
            memory_bytes=None if memory_gib is None else int(memory_gib * 2**30),
        )

    @property
    def decisions(self) -> tuple[str, ...]:
        return tuple(f"{why} ({', '.join(labels)})" if labels else why for why, labels in self.chosen.items())

    def add(self, stage: Stage) -> str:
        """Keep the stage once; of a data set all splits that are asked for. Two others of one id would be a fault."""
        before = self.stages.get(stage.id)
        if before is not None and before != stage:
            joined = self.fetches.with_splits_of(stage, before)
            if joined is None:
                raise BadManifest(
                    f"the manifest asks for two different stages {stage.id!r}", hint="give one of them another `name`"
                )
            stage = joined
        self.stages[stage.id] = stage
        return stage.id

    def plan_model(self, model: ModelEntry, source: ModelSource, architecture: str | None) -> None:
        """Plan one model with everything that is made and measured of it."""
        if architecture is None:
            self.chosen.setdefault(_NOT_KNOWN, []).append(model.name)
        tasks = self.manifest.evaluate.tasks if self.manifest.evaluate else ()
        for asked in tasks:
            taken = task_for(architecture, asked, tasks, self.catalog)
            if taken != asked and not self.leaves_out_task(_subject(model), asked, REFERENCE_ENGINE):
                why = f"{taken} in place of {asked}: {architecture} needs its beginning token before every segment"
                self.chosen.setdefault(why, []).append(model.name)
        fetched = self.add(self.fetches.model(model, source, _subject(model)))
        dense = Checkpoint.dense(architecture=architecture, dtype=model.dtype)
        variants = [_Variant(_subject(model), fetched, dense)]
        compressions = []
        sizes = known_input_sizes(source, self.fetch_image.description)
        rounds = self.manifest.rounds.compress
        for index, entry in enumerate(self.manifest.compress):
            if self.leaves_out(self.compressed(model, entry)):
                continue
            with located("compress", index):
                planned = self.compress(model, fetched, dense, entry)
                if planned is not None and planned[1] in [one.subject for one in variants]:
                    raise BadManifest(
                        f"{planned[1].label} is asked for twice", hint="remove one, or give one another `name`"
                    )
            if planned is not None:
                stage, subject, known = planned
                compressions.append(stage)
                made = first_of(stage.id, rounds)
                variants.append(_Variant(subject, made, known, entry.accuracy_only, self._asked(entry), sizes))
                self.useful.add(index)
        self.add_in_rounds(compressions, rounds)
        self.measure(variants)

    def _asked(self, entry: CompressEntry) -> Asked:
        image, method = resolve_method(entry.method, self.catalog)
        return Asked(image, method, resolve_setting(entry, method), entry.options)

    def compressed(self, model: ModelEntry, entry: CompressEntry) -> Subject:
        _, method = resolve_method(entry.method, self.catalog)
        setting = resolve_setting(entry, method)
        return _subject(model).model_copy(update={"method": entry.name or method.name, "setting": setting.name})

    def leaves_out(self, subject: Subject) -> bool:
        return self.exclusions.leave_out(subject.model, subject.method, subject.setting)

    def leaves_out_task(self, subject: Subject, task: str, engine: str) -> bool:
        tracks = [track.value for track, _ in parts_of_task(task, self.manifest.scoring)]
        return self.exclusions.leave_out_task(subject.model, subject.method, subject.setting, task, engine, tracks)

    def refuse_useless_methods(self) -> None:
        """An entry whose method knows none of the models is a mistake; one that knows some leaves a gap."""
        for index, entry in enumerate(self.manifest.compress):
            _, method = resolve_method(entry.method, self.catalog)
            refused = [one for one in self.not_planned if one.backend == method.name]
            if index not in self.useful and refused and all(one.reason is Reason.ARCHITECTURE for one in refused):
                with located("compress", index, "method"):
                    raise BadManifest(refused[0].message, hint=f"it knows: {', '.join(method.architectures)}")

    def compress(
        self, model: ModelEntry, checkpoint: str, dense: Checkpoint, entry: CompressEntry
    ) -> tuple[Stage, Subject, Checkpoint] | None:
        """A compression, and what it makes; None where the method does not know the architecture, which is noted."""
        with located("method"):
            image, method = resolve_method(entry.method, self.catalog)
        with located("setting"):
            setting = resolve_setting(entry, method)
        with located("options"):
            check_options(image, "methods", method.name, entry.options)
        with located("calibration"):
            asked, substitute = resolve_calibration(method, self.manifest.calibration, entry.calibration)
        subject = self.compressed(model, entry)
        if unknown_to := refusal(method, dense.architecture):
            source = f"`architectures` of {method.name} in {image.name}/{image.description_path.name}"
            why = Refused(Reason.ARCHITECTURE, unknown_to, source)
            self._refuse(subject, method.name, why, Operation.COMPRESS)
            return None
        texts = self._texts(method, asked.dataset if asked else None, substitute, entry.recovery)
        if isinstance(texts, Refused):
            self._refuse(subject, method.name, texts, Operation.COMPRESS)
            return None
        stage = Stage(
            id=f"compress/{subject.label}",
            image=image.name,
            operation=Operation.COMPRESS,
            parameters=CompressParameters(
                method=method.name,
                setting=setting,
                calibration=None if asked is None else self._seen(asked, substitute),
                options=entry.options,
                offload_activations=entry.offload_activations,
            ),
            inputs={"checkpoint": StageOutput(checkpoint)}
            | {name: StageOutput(self.add(text)) for name, text in texts.items()},
            device=self.first_device,
            limits=self.limits,
            subject=subject,
            timed=True,
        )
        return stage, subject, compressed_checkpoint(dense, method, setting, entry.options)

    def _seen(self, asked: Calibration, substitute: str | None) -> Calibration:
        """Without folders of this host, and with those of its sets that tasks read."""
        evaluated = tuple(sorted(self.evaluated & {asked.dataset, substitute}))
        return asked.model_copy(update={"dataset": without_folder(asked.dataset), "evaluated": evaluated})

    def _texts(
        self, method: MethodDescription, dataset: str | None, substitute: str | None, recovery: str | None
    ) -> dict[str, Stage] | Refused:
        """What fetches the text to calibrate on, if any, and that to train on; or why one of them cannot be had."""
        texts = {}
        if dataset is not None:
            with located("calibration"):
                texts["calibration"] = self.fetches.calibration(method, dataset, substitute)
        if recovery is not None:
            if not method.recovery:
                raise BadManifest(
                    f"{method.name} does not train after compressing, so it has no recovery on {recovery!r}",
                    hint="leave `recovery` out of this entry",
                )
            with located("recovery"):
                texts["recovery"] = self.fetches.calibration(method, recovery, None)
        lacking = next((one for one in texts.values() if isinstance(one, Refused)), None)
        return lacking or {name: one for name, one in texts.items() if not isinstance(one, Refused)}

    def measure(self, variants: Sequence[_Variant]) -> None:
        """Plan everything that is measured on one model's checkpoints: what takes rounds after all else."""
        profiles: list[Stage] = []
        benchmarks: dict[str, list[Stage]] = {}
        for variant in variants:
            common = self._common(variant.subject)
            for stage in self._evaluations(common, variant):
                self.add(stage)
            if variant.accuracy_only:
                continue
            profiles += self._profiles(common, variant)
            for backend, stage in self._benchmarks(common, variant):
                benchmarks.setdefault(backend, []).append(stage)
        rounds = self.manifest.rounds
        self.add_in_rounds(profiles, rounds.profile)
        for stages in benchmarks.values():
            self.add_in_rounds(stages, rounds.benchmark)

    def add_in_rounds(self, stages: Sequence[Stage], rounds: int) -> None:
        """Keep the stages, which measure the same of one model's checkpoints, once a round."""
        for stage in in_rounds(stages, rounds, seed=self.manifest.digest):
            self.add(stage)

    def _common(self, subject: Subject) -> Stage:
        """What all stages that measure this subject have in common."""
        return Stage(
            id="",
            image="",
            operation=Operation.PROFILE,
            parameters=ProfileParameters(),
            device=self.first_device,
            limits=self.limits,
            subject=subject,
        )

    def _evaluations(self, common: Stage, variant: _Variant) -> Iterator[Stage]:
        """By the reference, and by each backend that can evaluate this checkpoint, in the way that it serves it."""
        entry, benchmark = self.manifest.evaluate, self.manifest.benchmark
        fallback = benchmark is not None and benchmark.dense_fallback
        subject, checkpoint, known = variant.subject, variant.checkpoint, variant.known
        labelled = replace(common, id=subject.label, device=self.device)
        for index, name in enumerate(entry.engine if entry else ()):
            assert entry is not None  # noqa: S101  narrows the type; the loop is empty otherwise
            with located("evaluate", "engine", index):
                found = resolve_engine(name, self.catalog)
            if found is None:
                data = self._task_data(subject, REFERENCE_ENGINE)
                left_out = partial(self.leaves_out_task, subject, engine=REFERENCE_ENGINE)
                yield from task_stages(
                    labelled, checkpoint, entry, self.catalog, data, left_out, architecture=known.architecture
                )
                continue
            engine = Engine(*found)
            backend = engine.backend
            left_out = partial(self.leaves_out_task, subject, engine=backend.name)
            if all(map(left_out, entry.tasks)):
                continue
            way = scoring_refusal(backend) or find_way(
                backend.name, self.catalog, self.device, computed_in(known, entry.dtype), dense_fallback=fallback
            )
            if isinstance(way, Refused):
                self._refuse(subject, backend.name, way, Operation.EVALUATE)
            else:
                served = replace(labelled, caveat=way.caveat, device=common.device)
                read = self._exported(checkpoint, subject, way)
                data = self._task_data(subject, backend.name)
                yield from task_stages(
                    served, read, entry, self.catalog, data, left_out, engine, architecture=known.architecture
                )

    def _task_data(self, subject: Subject, engine: str) -> Callable[[TaskDescription], str | None]:
        """Plans the fetch of a task's data, and notes a task of which no source has them."""

        def plan(task: TaskDescription) -> str | None:
            found = self.fetches.task_data(task)
            if isinstance(found, Refused):
                self._refuse(subject, engine, found, Operation.EVALUATE, task.name)
                return None
            return self.add(found)

        return plan

    def _profiles(self, common: Stage, variant: _Variant) -> Iterator[Stage]:
        subject = variant.subject
        if self.manifest.profile is not None and not self.exclusions.leave_out_profile(
            subject.model, subject.method, subject.setting
        ):
            yield replace(
                common,
                id=f"profile/{variant.subject.label}",
                image=self.catalog.only(Operation.PROFILE).name,
                operation=Operation.PROFILE,
                parameters=ProfileParameters(**self.manifest.profile.model_dump()),
                inputs={"checkpoint": StageOutput(variant.checkpoint)},
            )

    def _benchmarks(self, common: Stage, variant: _Variant) -> Iterator[tuple[str, Stage]]:
        """With the backend of each."""
        entry, subject = self.manifest.benchmark, variant.subject
        for index, name in enumerate(entry.backends if entry else ()):
            assert entry is not None  # noqa: S101  narrows the type; the loop is empty otherwise
            with located("benchmark", "backends", index):
                image, backend = resolve_backend(name, self.catalog)
            if self.exclusions.leave_out_benchmark(subject.model, subject.method, subject.setting, backend.name):
                continue
            options = entry.options.get(name, {})
            with located("benchmark", "options", name):
                check_options(image, "backends", backend.name, options)
            asked = computed_in(variant.known, entry.dtype)
            way = find_way(backend.name, self.catalog, self.device, asked, dense_fallback=entry.dense_fallback)
            if isinstance(way, Refused):
                refused = self._with_closest(way, variant, backend.name, asked)
                self._refuse(subject, backend.name, refused, Operation.BENCHMARK, instead=self._serving(asked))
            else:
                if why := way.decision(backend.name):
                    self.chosen.setdefault(why, []).append(subject.label)
                yield (
                    backend.name,
                    replace(
                        common,
                        id=f"benchmark/{subject.label}/{backend.name}",
                        image=image.name,
                        operation=Operation.BENCHMARK,
                        parameters=_benchmark_parameters(backend, entry, options),
                        inputs={
                            "checkpoint": StageOutput(self._exported(variant.checkpoint, subject, way)),
                            **self._prompts(entry.prompts),
                        },
                        timed=True,
                        caveat=way.caveat,
                    ),
                )

    def _with_closest(self, why: Refused, variant: _Variant, backend: str, asked: Checkpoint) -> Refused:
        """The refusal of a quantized variant, with what the backend serves that comes closest."""
        if variant.asked is None or why.reason is not Reason.FORMAT:
            return why
        dense = Checkpoint.dense(architecture=asked.architecture, dtype=asked.dtype)
        near = self.advice.closest(variant.asked, backend, dense, variant.input_sizes)
        return why if near is None else replace(why, message=f"{why.message}; {near}")

    def _serving(self, asked: Checkpoint) -> tuple[str, ...]:
        """The backends that serve a checkpoint on this run's device."""
        ways = {
            name: find_way(name, self.catalog, self.device, asked, dense_fallback=False)
            for name in self.catalog.backends
        }
        return tuple(name for name, way in ways.items() if not isinstance(way, Refused))

    def _prompts(self, name: str | None) -> dict[str, Input]:
        if name is None:
            return {}
        with located("benchmark", "prompts"):
            stage = self.add(self.fetches.text(name))
        self.chosen.setdefault(f"speeds are those of the prompts in {without_folder(name)}, not of drawn ones", [])
        return {"prompts": StageOutput(stage)}

    def _exported(self, checkpoint: str, subject: Subject, way: Way) -> str:
        if way.export is None:
            return checkpoint
        return self.add(export_stage(way.export, checkpoint, subject, self.catalog, self.limits))

    def _refuse(
        self,
        subject: Subject,
        by: str,
        why: Refused,
        operation: Operation,
        task: str | None = None,
        instead: tuple[str, ...] = (),
    ) -> None:
        self.not_planned.append(
            NotPlanned(
                subject=subject,
                backend=by,
                reason=why.reason,
                message=why.message,
                source=why.source,
                operation=operation,
                task=task,
                instead=instead,
            )
        )


def build_plan(
    manifest: Manifest,
    catalog: ImageCatalog,
    device: Device,
    data: Path | None,
    look_up: ConfigLookUp | None = None,
    sources: DataSources | None = None,
) -> Plan:
    """Plan `manifest`. `data` is the local data folder, None where there is none.

    `look_up` brings the configurations of models of the hub; without it their architectures are not known beforehand.
    `sources` are those of data sets; without them, the hub is taken to show us all that it has.

    Raises:
        BadManifest: a name or option is unknown, a value is none that the method or backend accepts, a model names no
            commit, no source has a split that is needed, or a method knows the architecture of none of the models.
    """
    _refuse_other_names(manifest, catalog)
    exclusions = planned_exclusions(manifest, catalog)
    planned = {
        index: one for index, one in enumerate(manifest.models) if not exclusions.leave_out(one.name, None, None)
    }
    refuse_unpinned(manifest.models, planned)
    builder = _Builder(manifest, catalog, device, data, sources or data_sources(catalog), exclusions)
    architecture_of = known_architectures(builder.fetch_image.description, look_up)
    architectures = {}
    for index, model in planned.items():
        with located("models", index, "source"):
            parsed = parse_model(model.source)
            refuse_unknown_package(parsed, builder.fetch_image.description.models)
        with located("models", index, "architecture"):
            architecture = stated_architecture(model, architecture_of(parsed))
        if architecture is not None:
            architectures[model.name] = architecture
        builder.plan_model(model, parsed, architecture)
    builder.refuse_useless_methods()
    return Plan(
        tuple(builder.stages.values()),
        tuple(builder.not_planned),
        (*builder.decisions, *(entry.words for entry in manifest.exclude)),
        architectures,
    )


def _refuse_other_names(manifest: Manifest, catalog: ImageCatalog) -> None:
    """Refuse a backend that stands in one list twice, by its name and by its short form."""
    engines = manifest.evaluate.engine if manifest.evaluate else ()
    backends = manifest.benchmark.backends if manifest.benchmark else ()
    for where, names in (("evaluate", "engine"), engines), (("benchmark", "backends"), backends):
        full = [catalog.full_name(name) for name in names]
        for index, name in enumerate(full):
            if name in full[:index]:
                with located(*where, index):
                    raise BadManifest(f"{names[index]} is {name}, which stands there already", hint="remove one")


def _benchmark_parameters(
    backend: BackendDescription, entry: BenchmarkEntry, options: Mapping[str, Scalar]
) -> BenchmarkParameters:
    return BenchmarkParameters(
        backend=backend.name,
        options=dict(options),
        **entry.model_dump(exclude={"backends", "options", "dense_fallback", "prompts"}),
    )


def _subject(model: ModelEntry) -> Subject:
    return Subject(model=model.name, family=model.family or model.name)
