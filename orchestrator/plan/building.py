"""Manifest to stages: which images do what, in which order, and what is known beforehand to be impossible."""

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from harness.contract import (
    REFERENCE_ENGINE,
    Calibration,
    CompressParameters,
    Device,
    MethodDescription,
    Operation,
    Reason,
)
from orchestrator.errors import BadManifest, located
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import CompressEntry, Manifest, ModelEntry
from orchestrator.manifest.data_sources import without_folder
from orchestrator.manifest.sources import ModelSource, parse_model, refuse_unknown_package, refuse_unpinned
from orchestrator.plan.architectures import (
    ConfigLookUp,
    known_architectures,
    known_input_sizes,
    refusal,
    stated_architecture,
)
from orchestrator.plan.data import DataSources, data_sources
from orchestrator.plan.draft import Draft
from orchestrator.plan.evaluating import task_for
from orchestrator.plan.exclusions import planned_exclusions
from orchestrator.plan.measuring import Measuring, Variant
from orchestrator.plan.options import check_options
from orchestrator.plan.ordering import depth_first
from orchestrator.plan.resolving import (
    resolve_calibration,
    resolve_method,
    resolve_setting,
)
from orchestrator.plan.rounds import first_of
from orchestrator.plan.serving import compressed_checkpoint
from orchestrator.plan.support import Checkpoint, Refused
from orchestrator.plan.variants import Asked
from orchestrator.stages import Plan, Stage, StageOutput, Subject

_NOT_KNOWN = "the architecture is not known before the model is there, so that a method or backend may yet refuse it"


@dataclass
class _Models:
    """Plans models, and what is made of them, into `draft`. `useful` are the entries whose method knows one of them."""

    draft: Draft
    measuring: Measuring
    useful: set[int] = field(default_factory=set)

    @property
    def evaluated(self) -> set[str]:
        """The data sets that tasks read."""
        return {task.dataset for _, task in self.draft.catalog.tasks.values()}

    def plan_model(self, model: ModelEntry, source: ModelSource, architecture: str | None) -> None:
        """Plan one model with everything that is made and measured of it."""
        if architecture is None:
            self.draft.choose(_NOT_KNOWN, model.name)
        tasks = self.draft.manifest.evaluate.tasks if self.draft.manifest.evaluate else ()
        for asked in tasks:
            taken = task_for(architecture, asked, tasks, self.draft.catalog)
            if taken != asked and not self.draft.leaves_out_task(_subject(model), asked, REFERENCE_ENGINE):
                why = f"{taken} in place of {asked}: {architecture} needs its beginning token before every segment"
                self.draft.choose(why, model.name)
        fetched = self.draft.add(self.draft.fetches.model(model, source, _subject(model)))
        dense = Checkpoint.dense(architecture=architecture, dtype=model.dtype)
        variants = [Variant(_subject(model), fetched, dense)]
        compressions = []
        sizes = known_input_sizes(source, self.draft.fetch_image.description)
        rounds = self.draft.manifest.rounds.compress
        for index, entry in enumerate(self.draft.manifest.compress):
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
                variants.append(Variant(subject, made, known, entry.accuracy_only, self._asked(entry), sizes))
                self.useful.add(index)
        self.draft.add_in_rounds(compressions, rounds)
        self.measuring.measure(variants)

    def _asked(self, entry: CompressEntry) -> Asked:
        image, method = resolve_method(entry.method, self.draft.catalog)
        return Asked(image, method, resolve_setting(entry, method), entry.options)

    def compressed(self, model: ModelEntry, entry: CompressEntry) -> Subject:
        _, method = resolve_method(entry.method, self.draft.catalog)
        setting = resolve_setting(entry, method)
        return _subject(model).model_copy(update={"method": entry.name or method.name, "setting": setting.name})

    def leaves_out(self, subject: Subject) -> bool:
        return self.draft.exclusions.leave_out(subject.model, subject.method, subject.setting)

    def refuse_useless_methods(self) -> None:
        """An entry whose method knows none of the models is a mistake; one that knows some leaves a gap."""
        for index, entry in enumerate(self.draft.manifest.compress):
            _, method = resolve_method(entry.method, self.draft.catalog)
            refused = [one for one in self.draft.not_planned if one.backend == method.name]
            if index not in self.useful and refused and all(one.reason is Reason.ARCHITECTURE for one in refused):
                with located("compress", index, "method"):
                    raise BadManifest(refused[0].message, hint=f"it knows: {', '.join(method.architectures)}")

    def compress(
        self, model: ModelEntry, checkpoint: str, dense: Checkpoint, entry: CompressEntry
    ) -> tuple[Stage, Subject, Checkpoint] | None:
        """A compression, and what it makes; None where the method does not know the architecture, which is noted."""
        with located("method"):
            image, method = resolve_method(entry.method, self.draft.catalog)
        with located("setting"):
            setting = resolve_setting(entry, method)
        with located("options"):
            check_options(image, "methods", method.name, entry.options)
        with located("calibration"):
            asked, substitute = resolve_calibration(method, self.draft.manifest.calibration, entry.calibration)
        subject = self.compressed(model, entry)
        if unknown_to := refusal(method, dense.architecture):
            source = f"`architectures` of {method.name} in {image.name}/{image.description_path.name}"
            why = Refused(Reason.ARCHITECTURE, unknown_to, source)
            self.draft.refuse(subject, method.name, why, Operation.COMPRESS)
            return None
        texts = self._texts(method, asked.dataset if asked else None, substitute, entry.recovery)
        if isinstance(texts, Refused):
            self.draft.refuse(subject, method.name, texts, Operation.COMPRESS)
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
            | {name: StageOutput(self.draft.add(text)) for name, text in texts.items()},
            device=self.draft.device,
            limits=self.draft.limits,
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
                texts["calibration"] = self.draft.fetches.calibration(method, dataset, substitute)
        if recovery is not None:
            with located("recovery"):
                if not method.recovery:
                    raise BadManifest(
                        f"{method.name} does not train after compressing, so it has no recovery on {recovery!r}",
                        hint="leave `recovery` out of this entry",
                    )
                texts["recovery"] = self.draft.fetches.calibration(method, recovery, None)
        lacking = next((one for one in texts.values() if isinstance(one, Refused)), None)
        return lacking or {name: one for name, one in texts.items() if not isinstance(one, Refused)}


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
    draft = Draft(manifest, catalog, device, data, sources or data_sources(catalog), exclusions)
    models = _Models(draft, Measuring(draft))
    architecture_of = known_architectures(draft.fetch_image.description, look_up)
    architectures = {}
    stages: list[Stage] = []
    for index, model in planned.items():
        with located("models", index, "source"):
            parsed = parse_model(model.source)
            refuse_unknown_package(parsed, draft.fetch_image.description.models)
        with located("models", index, "architecture"):
            architecture = stated_architecture(model, architecture_of(parsed))
        if architecture is not None:
            architectures[model.name] = architecture
        before = len(draft.stages)
        models.plan_model(model, parsed, architecture)
        stages += depth_first(tuple(islice(draft.stages.values(), before, None)))
    models.refuse_useless_methods()
    return Plan(
        tuple(draft.stages[stage.id] for stage in stages),
        tuple(draft.not_planned),
        (*draft.decisions, *(entry.words for entry in manifest.exclude)),
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


def _subject(model: ModelEntry) -> Subject:
    return Subject(model=model.name, family=model.family or model.name)
