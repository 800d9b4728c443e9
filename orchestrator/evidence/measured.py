"""What a run measured: values, gaps, and where the outcomes behind the values lie. Read from the store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.contract import EvaluateResult
from orchestrator.evidence.items import ItemsFile
from orchestrator.evidence.observation import DENSE, Gap, Observation, Variant
from orchestrator.evidence.observing import expectations, observe
from orchestrator.images.catalog import ImageCatalog
from orchestrator.stages import OUTPUT_NAME
from orchestrator.store import RunRecord, StageRecord, Store
from orchestrator.tracks import Expectation


@dataclass(frozen=True)
class Measured:
    """`variants` begins with dense. `checkpoints` has the digest of each dense model that something was measured of,
    `items` the outcomes behind the observations whose `source` is the key."""

    run: str
    device: str
    variants: tuple[Variant, ...]
    checkpoints: Mapping[str, str]
    expectations: tuple[Expectation, ...]
    observations: tuple[Observation, ...]
    gaps: tuple[Gap, ...]
    items: Mapping[str, ItemsFile]


def measured(record: RunRecord, store: Store, catalog: ImageCatalog) -> Measured:
    """Everything of a run, complete or not, that scores are computed from.

    Raises:
        StoreError: a stored result is damaged.
    """
    results = stored_results(record, store)
    observations, gaps = observe(record, results, catalog)
    return Measured(
        run=record.run,
        device=record.device_model,
        variants=(DENSE, *compressed_variants(record)),
        checkpoints=_checkpoints(record, results),
        expectations=expectations(record),
        observations=observations,
        gaps=gaps,
        items=_items(results, store),
    )


def stored_results(record: RunRecord, store: Store) -> dict[str, StageRecord]:
    """The finished stages of a run, by their names."""
    found = {}
    for name, state in record.stages.items():
        stored = store.find(state.key) if state.key is not None else None
        if stored is not None:
            found[name] = stored
    return found


def compressed_variants(record: RunRecord) -> tuple[Variant, ...]:
    subjects = (state.subject for state in record.stages.values() if state.subject is not None)
    return tuple(dict.fromkeys(Variant(method=one.method, setting=one.setting) for one in subjects if one.method))


def _checkpoints(record: RunRecord, results: Mapping[str, StageRecord]) -> dict[str, str]:
    """By the stages that read the dense model: its own files may have been cleaned away since."""
    digests = {}
    for name, stage in results.items():
        subject = record.stages[name].subject
        read = stage.provenance.material.get("inputs", {}).get("checkpoint")
        if subject is not None and subject.method is None and read is not None:
            digests[subject.model] = str(read)
    return digests


def _items(results: Mapping[str, StageRecord], store: Store) -> dict[str, ItemsFile]:
    files = {}
    for stage in results.values():
        result = stage.final.result
        if isinstance(result, EvaluateResult):
            files[stage.provenance.key] = items_file(stage, result, store)
    return files


def items_file(stage: StageRecord, result: EvaluateResult, store: Store) -> ItemsFile:
    """Where the outcomes of a stored evaluation lie."""
    data = stage.provenance.material.get("inputs", {}).get("dataset", "")
    folder = store.stages / stage.provenance.key / OUTPUT_NAME
    return ItemsFile(folder / Path(result.items_file).name, scored=result.items, data=str(data))
