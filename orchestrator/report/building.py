"""A run's stored stages as one report: everything in it is derived again from the store, nothing is run."""

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any, TypedDict

from harness.contract import (
    REFERENCE_ENGINE,
    CheckpointDescriptor,
    DatasetDescriptor,
    EvaluateResult,
    FetchResult,
    Operation,
)
from orchestrator.decide.answer import Decision
from orchestrator.decide.answering import decide_run, with_full_names
from orchestrator.errors import BadManifest
from orchestrator.evidence.reading import Evidence, read_evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.stage_values import notes_of
from orchestrator.evidence.value import Variant
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.installation import PAPER_CLAIMS, shipped_claims
from orchestrator.manifest import DecideEntry
from orchestrator.report.model import (
    ImageEntry,
    ModelEntry,
    Provenance,
    RunReport,
    StageEntry,
    VariantEntry,
)
from orchestrator.score.agreement import run_agreement
from orchestrator.score.categories import category_scores
from orchestrator.score.claims import judge
from orchestrator.score.claims_file import read_claims
from orchestrator.score.differing import differing_items
from orchestrator.score.scores import score_run
from orchestrator.store import RunRecord, StageRecord, Store
from orchestrator.tracks import Mode


def build_report(
    record: RunRecord, store: Store, catalog: ImageCatalog, mode: Mode = Mode.PAPER, *, quoted: bool = True
) -> RunReport:
    """Assemble the report of a run, complete or not. Without `quoted` it has no text of a data set.

    Raises:
        StoreError: a stored result is damaged.
    """
    evidence = read_evidence(record, store, catalog, Resampling())
    results = evidence.results
    return RunReport(
        created=record.updated,
        runtime=record.runtime,
        device=record.device_model,
        models=tuple(_models(record, results)),
        variants=tuple(_variant(variant, record, results) for variant in evidence.variants if not variant.is_dense),
        backends=record.manifest.benchmark.backends if record.manifest.benchmark else (),
        scoring=score_run(evidence, mode),
        agreement=run_agreement(record, results, store).tasks,
        categories=category_scores(evidence, mode),
        **_decision(evidence, with_full_names(record.manifest.decide, catalog)),
        claims=judge(read_claims(shipped_claims()[PAPER_CLAIMS]), evidence, mode),
        differing=differing_items(record, results, evidence.outcomes, store, catalog, quoted=quoted),
        stages=tuple(_stages(record, results)),
        provenance=_provenance(record, results, catalog),
        results_path=str(store.runs.folder / record.run),
        manifest=record.manifest_document,
    )


class _Decision(TypedDict, total=False):
    decision: Decision
    decision_absent: str


def _decision(evidence: Evidence, asked: DecideEntry) -> _Decision:
    """Its manifest may ask for a backend or a batch size that `exclude` took away, or that is of another version."""
    try:
        return _Decision(decision=decide_run(evidence, asked))
    except BadManifest as none:
        return _Decision(decision_absent=none.message)


def _models(record: RunRecord, results: Mapping[str, StageRecord]) -> Iterator[ModelEntry]:
    for model in record.manifest.models:
        stage = results.get(f"fetch/{model.name}")
        artifact = stage.artifact if stage else None
        known = artifact if isinstance(artifact, CheckpointDescriptor) else None
        yield ModelEntry(
            name=model.name,
            source=model.source,
            family=model.family,
            architecture=known.architecture if known else None,
            parameter_count=known.parameter_count if known else None,
            digest=stage.provenance.artifact if stage else None,
        )


def _variant(variant: Variant, record: RunRecord, results: Mapping[str, StageRecord]) -> VariantEntry:
    """The first model's compress stage speaks for the variant; notes are gathered from all models."""
    names = [
        name
        for name, state in record.stages.items()
        if state.operation is Operation.COMPRESS and state.subject is not None and Variant.of(state.subject) == variant
    ]
    calibration = record.stages[names[0]].parameters.get("calibration")
    notes = (note for name in names if name in results for note in notes_of(results[name]))
    return VariantEntry(
        variant=variant,
        image=record.stages[names[0]].image,
        calibration=_calibration_text(calibration) if calibration else None,
        notes=tuple(dict.fromkeys(notes)),
    )


def _calibration_text(calibration: Mapping[str, Any]) -> str:
    size = f"{calibration['samples']} x {calibration['sequence_length']} tokens"
    return f"{calibration['dataset']}, {size}, seed {calibration['seed']}"


def _stages(record: RunRecord, results: Mapping[str, StageRecord]) -> Iterator[StageEntry]:
    for name, state in record.stages.items():
        yield StageEntry(
            name=name,
            operation=state.operation.value,
            status=state.status,
            key=state.key,
            wall_seconds=state.wall_seconds,
            message=state.failure.message if state.failure else "",
            hint=state.failure.hint if state.failure else "",
            notes=notes_of(results[name]) if name in results else (),
            load=results[name].provenance.load if name in results else None,
            repeated=name in results and results[name].provenance.repeated,
        )


def _provenance(record: RunRecord, results: Mapping[str, StageRecord], catalog: ImageCatalog) -> Provenance:
    images: dict[str, ImageEntry] = {}
    needed = cache(lambda name: catalog.images[name].requirements if name in catalog.images else frozenset())
    origins = {}
    notes = list(record.decisions)
    drivers = []
    digests = []
    for name, stage in results.items():
        state, environment, result = record.stages[name], stage.final.environment, stage.final.result
        images[state.image] = ImageEntry(
            name=state.image,
            identity=str(stage.provenance.material["image"]),
            libraries=_built_for(environment.libraries, catalog.images.get(state.image), needed(state.image)),
        )
        drivers.append(environment.driver)
        digests.append(environment.harness_digest)
        if isinstance(result, FetchResult) and isinstance(result.artifact, DatasetDescriptor):
            origins[result.artifact.name] = result.artifact.origin
            notes.extend(result.artifact.notes)
        elif isinstance(result, EvaluateResult):
            by = "" if result.engine == REFERENCE_ENGINE else f" by {result.engine}"
            notes.append(f"evaluated{by} in {result.dtype.value}: {result.dtype_reason}")
    return Provenance(
        harness_digest=", ".join(dict.fromkeys(digests)) or "nothing was run",
        manifest_digest=record.facts.manifest_digest,
        version=record.facts.version,
        commit=record.facts.commit,
        device_model=record.device_model,
        driver=next((driver for driver in drivers if driver), None),
        images=tuple(images.values()),
        data_origins=origins,
        notes=tuple(dict.fromkeys(notes)),
    )


def _built_for(libraries: Mapping[str, str], image: Image | None, requirements: Collection[str]) -> dict[str, str]:
    """Of the libraries of an environment those that the image has by its `requirements`, or by what it serves with."""
    if image is None or not requirements:
        return dict(libraries)
    backends = tuple(backend.name for backend in image.description.backends)
    return {name: one for name, one in libraries.items() if name in requirements or name.startswith(backends)}
