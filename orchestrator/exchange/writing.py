"""A run's evaluations in the files of other programs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from harness.contract.items import Item
from orchestrator.errors import StoreError
from orchestrator.evidence.reading import Evidence
from orchestrator.exchange.evaluations import Evaluated, run_evaluations
from orchestrator.exchange.hub import Source, hub_files
from orchestrator.exchange.lm_eval_results import results_document, subtasks
from orchestrator.exchange.lm_eval_samples import samples_text
from orchestrator.host.files import write_atomically
from orchestrator.images.catalog import ImageCatalog
from orchestrator.store import RunRecord, Store


@dataclass(frozen=True)
class Exported:
    """`written` are paths of files, or names of what else was made. `left_out` says what is not in it, and why."""

    written: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def export_lm_eval(
    record: RunRecord, evidence: Evidence, store: Store, catalog: ImageCatalog, folder: Path
) -> Exported:
    """Write one folder a subject, with `results_<time>.json` and `samples_<task>_<time>.jsonl`.

    The time is that at which its last evaluation ended, so that the same run gives the same files.

    Raises:
        BadManifest: the run evaluated nothing.
        StoreError: the folder cannot be written.
    """
    found = run_evaluations(record, evidence, catalog)
    files = (file for one in found.subjects for file in _lm_eval_files(one, record, store, catalog))
    return Exported(_written(folder, files), found.left_out)


def export_hub(
    record: RunRecord, evidence: Evidence, catalog: ImageCatalog, folder: Path, source: Source | None = None
) -> Exported:
    """Write one folder a subject, with `.eval_results/<task>.yaml` for the Hub's repository of that very checkpoint.

    Raises:
        BadManifest: the run evaluated nothing.
        StoreError: the folder cannot be written.
    """
    found = run_evaluations(record, evidence, catalog)
    data_sets, left_out = catalog.datasets, list(found.left_out)
    files = (file for one in found.subjects for file in hub_files(one, data_sets, source, left_out))
    return Exported(_written(folder, files), tuple(left_out))


def _lm_eval_files(
    evaluated: Evaluated, record: RunRecord, store: Store, catalog: ImageCatalog
) -> Iterator[tuple[PurePath, str]]:
    ended = max(one.ended for one in evaluated.evaluations).replace(tzinfo=None)
    time = ended.isoformat(timespec="microseconds").replace(":", "-")
    items = {one.task.name: store.outcomes.items(one.stage) for one in evaluated.evaluations}
    document = results_document(evaluated, items, record, catalog)
    inside = Path(evaluated.folder_name)
    yield inside / f"results_{time}.json", document.model_dump_json(indent=2, exclude_none=True) + "\n"
    for task, own in items.items():
        parts: Mapping[str, Sequence[Item]] = subtasks(task, own) or {task: own}
        for name, members in parts.items():
            yield inside / f"samples_{name}_{time}.jsonl", samples_text(members)


def _written(folder: Path, files: Iterable[tuple[PurePath, str]]) -> tuple[str, ...]:
    paths = []
    try:
        for name, text in files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
            paths.append(str(path))
    except OSError as failure:
        raise StoreError(
            f"the export cannot be written to {folder}: {failure}", hint="name another folder with --output"
        ) from failure
    return tuple(paths)
