"""What is measured of one model's checkpoints: evaluations by each engine, profiles, and timings in rounds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from harness.contract import (
    REFERENCE_ENGINE,
    BackendDescription,
    BenchmarkParameters,
    DeviceKind,
    Operation,
    ProfileParameters,
    Reason,
    Scalar,
    TaskDescription,
)
from orchestrator.errors import located
from orchestrator.manifest import BenchmarkEntry, EvaluateEntry
from orchestrator.manifest.data_sources import without_folder
from orchestrator.plan.draft import Draft
from orchestrator.plan.evaluating import Engine, fidelity_stages, scoring_refusal, task_stages
from orchestrator.plan.exporting import Way, export_stage, find_way
from orchestrator.plan.options import check_options
from orchestrator.plan.resolving import (
    resolve_backend,
    resolve_engine,
)
from orchestrator.plan.serving import computed_in
from orchestrator.plan.support import Checkpoint, Refused
from orchestrator.plan.variants import Advice, Asked
from orchestrator.stages import Input, Stage, StageOutput, Subject


@dataclass(frozen=True)
class Variant:
    """A model as it is or compressed: the stage that makes the checkpoint, and what is known of that beforehand."""

    subject: Subject
    checkpoint: str
    known: Checkpoint
    accuracy_only: bool = False
    asked: Asked | None = None
    input_sizes: tuple[int, ...] = ()


@dataclass
class Measuring:
    """Plans into `draft`."""

    draft: Draft

    @cached_property
    def advice(self) -> Advice:
        return Advice(self.draft.catalog, self.draft.device)

    def measure(self, variants: Sequence[Variant]) -> None:
        """Plan everything that is measured on one model's checkpoints: what takes rounds after all else."""
        profiles: list[Stage] = []
        benchmarks: dict[str, list[Stage]] = {}
        for variant in variants:
            common = self._common(variant.subject)
            for stage in self._evaluations(common, variant):
                self.draft.add(stage)
            if variant.accuracy_only:
                continue
            profiles += self._profiles(common, variant)
            for backend, stage in self._benchmarks(common, variant):
                benchmarks.setdefault(backend, []).append(stage)
        for stage in self._fidelity(variants):
            self.draft.add(stage)
        rounds = self.draft.manifest.rounds
        self.draft.add_in_rounds(profiles, rounds.profile)
        for stages in benchmarks.values():
            self.draft.add_in_rounds(stages, rounds.benchmark)

    def _common(self, subject: Subject) -> Stage:
        """What all stages that measure this subject have in common."""
        return Stage(
            id="",
            image="",
            operation=Operation.PROFILE,
            parameters=ProfileParameters(),
            device=self.draft.device,
            limits=self.draft.limits,
            subject=subject,
        )

    def _evaluations(self, common: Stage, variant: Variant) -> Iterator[Stage]:
        """By the reference, and by each backend that can evaluate this checkpoint, in the way that it serves it."""
        entry = self.draft.manifest.evaluate
        subject, checkpoint, known = variant.subject, variant.checkpoint, variant.known
        labelled = replace(common, id=subject.label)
        for index, name in enumerate(entry.engine if entry else ()):
            assert entry is not None  # noqa: S101  narrows the type; the loop is empty otherwise
            with located("evaluate", "engine", index):
                found = resolve_engine(name, self.draft.catalog)
            if found is None:
                data = self._task_data(subject, REFERENCE_ENGINE)
                left_out = partial(self.draft.leaves_out_task, subject, engine=REFERENCE_ENGINE)
                spread = replace(labelled, device_count=min(entry.gpus, len(self.draft.device.uuids) or 1))
                yield from task_stages(
                    spread, checkpoint, entry, self.draft.catalog, data, left_out, architecture=known.architecture
                )
                continue
            engine = Engine(*found)
            backend = engine.backend
            left_out = partial(self.draft.leaves_out_task, subject, engine=backend.name)
            if all(map(left_out, entry.tasks)):
                continue
            way = self._way_to_score(variant, backend, entry)
            if isinstance(way, Refused):
                self.draft.refuse(subject, backend.name, way, Operation.EVALUATE)
            else:
                served = replace(labelled, caveat=way.caveat)
                read = self._exported(checkpoint, subject, way)
                data = self._task_data(subject, backend.name)
                yield from task_stages(
                    served, read, entry, self.draft.catalog, data, left_out, engine, architecture=known.architecture
                )

    def _way_to_score(self, variant: Variant, backend: BackendDescription, entry: EvaluateEntry) -> Way | Refused:
        benchmark = self.draft.manifest.benchmark
        return scoring_refusal(backend) or find_way(
            backend.name,
            self.draft.catalog,
            self.draft.device,
            computed_in(variant.known, entry.dtype),
            dense_fallback=benchmark is not None and benchmark.dense_fallback,
        )

    def _fidelity(self, variants: Sequence[Variant]) -> Iterator[Stage]:
        """Of each compressed variant by each engine. By one that is not the reference, of dense as well: how far its
        arithmetic alone is from the reference's. What it cannot read, it cannot evaluate, which is said there."""
        entry, (dense, *compressed) = self.draft.manifest.evaluate, variants
        if entry is None or not entry.fidelity or not compressed:
            return
        for name in entry.engine:
            found = resolve_engine(name, self.draft.catalog)
            engine = None if found is None else Engine(*found)
            by = REFERENCE_ENGINE if engine is None else engine.backend.name
            yield from fidelity_stages(
                replace(self._common(dense.subject), id=dense.subject.label),
                dense.checkpoint,
                [(one.subject, one.checkpoint) for one in compressed]
                if engine is None
                else list(self._read_by(engine.backend, variants, entry)),
                entry,
                self.draft.catalog,
                self._task_data(dense.subject, REFERENCE_ENGINE),
                partial(self.draft.leaves_out_task, engine=by),
                engine,
                architecture=dense.known.architecture,
            )

    def _read_by(
        self, backend: BackendDescription, variants: Sequence[Variant], entry: EvaluateEntry
    ) -> Iterator[tuple[Subject, str]]:
        """The variants that the backend can score, each with the stage of the checkpoint that it reads."""
        for variant in variants:
            way = self._way_to_score(variant, backend, entry)
            if not isinstance(way, Refused):
                yield variant.subject, self._exported(variant.checkpoint, variant.subject, way)

    def _task_data(self, subject: Subject, engine: str) -> Callable[[TaskDescription], str | None]:
        """Plans the fetch of a task's data, and notes a task of which no source has them."""

        def plan(task: TaskDescription) -> str | None:
            found = self.draft.fetches.task_data(task)
            if isinstance(found, Refused):
                self.draft.refuse(subject, engine, found, Operation.EVALUATE, task.name)
                return None
            return self.draft.add(found)

        return plan

    def _profiles(self, common: Stage, variant: Variant) -> Iterator[Stage]:
        subject = variant.subject
        if self.draft.manifest.profile is not None and not self.draft.exclusions.leave_out_profile(
            subject.model, subject.method, subject.setting
        ):
            yield replace(
                common,
                id=f"profile/{variant.subject.label}",
                image=self.draft.catalog.only(Operation.PROFILE).name,
                operation=Operation.PROFILE,
                parameters=ProfileParameters(**self.draft.manifest.profile.model_dump()),
                inputs={"checkpoint": StageOutput(variant.checkpoint)},
            )

    def _benchmarks(self, common: Stage, variant: Variant) -> Iterator[tuple[str, Stage]]:
        """With the backend of each."""
        entry, subject = self.draft.manifest.benchmark, variant.subject
        for index, name in enumerate(entry.backends if entry else ()):
            assert entry is not None  # noqa: S101  narrows the type; the loop is empty otherwise
            with located("benchmark", "backends", index):
                image, backend = resolve_backend(name, self.draft.catalog)
            if self.draft.exclusions.leave_out_benchmark(subject.model, subject.method, subject.setting, backend.name):
                continue
            options = entry.options.get(name, {})
            with located("benchmark", "options", name):
                check_options(image, "backends", backend.name, options)
            asked = computed_in(variant.known, entry.dtype)
            parameters = _benchmark_parameters(backend, entry, options)
            way = self._too_few_gpus(parameters) or find_way(
                backend.name, self.draft.catalog, self.draft.device, asked, dense_fallback=entry.dense_fallback
            )
            if isinstance(way, Refused):
                refused = self._with_closest(way, variant, backend.name, asked)
                self.draft.refuse(subject, backend.name, refused, Operation.BENCHMARK, instead=self._serving(asked))
            else:
                if why := way.decision(backend.name):
                    self.draft.choose(why, subject.label)
                yield (
                    backend.name,
                    replace(
                        common,
                        id=f"benchmark/{subject.label}/{backend.name}",
                        image=image.name,
                        operation=Operation.BENCHMARK,
                        parameters=parameters,
                        device_count=parameters.tensor_parallel,
                        inputs={
                            "checkpoint": StageOutput(self._exported(variant.checkpoint, subject, way)),
                            **self._prompts(entry.prompts),
                        },
                        timed=True,
                        caveat=way.caveat,
                    ),
                )

    def _too_few_gpus(self, parameters: BenchmarkParameters) -> Refused | None:
        """Why a model cannot be split over as many GPUs as is asked for."""
        wanted, device = parameters.tensor_parallel, self.draft.device
        there = len(device.uuids) or (1 if device.kind is DeviceKind.CUDA else 0)
        if wanted == 1 or wanted <= there:
            return None
        has = f"has {there or 'none'}"
        return Refused(
            Reason.DEVICE, f"tensor_parallel splits a model over {wanted} GPUs, and this run {has}", "the run's device"
        )

    def _with_closest(self, why: Refused, variant: Variant, backend: str, asked: Checkpoint) -> Refused:
        """The refusal of a quantized variant, with what the backend serves that comes closest."""
        if variant.asked is None or why.reason is not Reason.FORMAT:
            return why
        dense = Checkpoint.dense(architecture=asked.architecture, dtype=asked.dtype)
        near = self.advice.closest(variant.asked, backend, dense, variant.input_sizes)
        return why if near is None else replace(why, message=f"{why.message}; {near}")

    def _serving(self, asked: Checkpoint) -> tuple[str, ...]:
        """The backends that serve a checkpoint on this run's device."""
        ways = {
            name: find_way(name, self.draft.catalog, self.draft.device, asked, dense_fallback=False)
            for name in self.draft.catalog.backends
        }
        return tuple(name for name, way in ways.items() if not isinstance(way, Refused))

    def _prompts(self, name: str | None) -> dict[str, Input]:
        if name is None:
            return {}
        with located("benchmark", "prompts"):
            stage = self.draft.add(self.draft.fetches.text(name))
        self.draft.choose(f"speeds are those of the prompts in {without_folder(name)}, not of drawn ones")
        return {"prompts": StageOutput(stage)}

    def _exported(self, checkpoint: str, subject: Subject, way: Way) -> str:
        if way.export is None:
            return checkpoint
        return self.draft.add(export_stage(way.export, checkpoint, subject, self.draft.catalog, self.draft.limits))


def _benchmark_parameters(
    backend: BackendDescription, entry: BenchmarkEntry, options: Mapping[str, Scalar]
) -> BenchmarkParameters:
    return BenchmarkParameters(
        backend=backend.name,
        options=dict(options),
        **entry.model_dump(exclude={"backends", "options", "dense_fallback", "prompts"}),
    )
