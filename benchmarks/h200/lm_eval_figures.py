"""The dense model's figures by lm-eval's own Hugging Face model, over the same rows as a run in a store.

python benchmarks/h200/lm_eval_figures.py --store DIR --out FILE [--tasks arc_easy piqa] [--limit N]

Checkpoint and data sets are the run's artifacts. Task definitions are lm-eval's, as in `harness/evaluation`, but its
own code tokenises, batches, computes and judges; only the mean over items is taken here, as the protocols take it.
Tasks that lm-eval does not define (perplexities of segments, letters) are left out.
"""

import argparse
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from harness.checkpoint import read_rows
from harness.contract.tasks import AttackedTask, ChoiceTask, Task, TruthTask
from harness.evaluation.definitions.lm_eval_task import load_task
from harness.evaluation.definitions.rows import share_limit
from harness.evaluation.tasks import find_task
from orchestrator.store import RunRecord, Store

Row = dict[str, Any]


@dataclass(frozen=True)
class Questions:
    """One of lm-eval's task objects with its requests built. `metrics` maps its metrics to the names they have here."""

    task: Any
    metrics: dict[str, str]


def main() -> None:
    arguments = _arguments()
    store = Store(arguments.store)
    record = store.runs.load(arguments.run)
    model = record.manifest.models[0].name
    lm = _load(_artifact(record, store, f"fetch/{model}"), arguments)
    document: dict[str, Any] = {
        "run": record.run,
        "model": model,
        "lm_eval": importlib.metadata.version("lm-eval"),
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "softmax_dtype": arguments.softmax_dtype or "the model's",
        "batch_size": arguments.batch_size,
        "tasks": {},
    }
    asked = record.manifest.evaluate.tasks if record.manifest.evaluate else ()
    for name in arguments.tasks or asked:
        task = find_task(name)
        if not isinstance(task, ChoiceTask | AttackedTask | TruthTask):
            continue
        folder = _artifact(record, store, f"data/{task.dataset}")
        begin = time.monotonic()
        questions = list(_questions(task, lambda split, folder=folder: read_rows(folder, split), arguments.limit))
        document["tasks"][name] = _answer(lm, questions) | {"seconds": round(time.monotonic() - begin, 2)}
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(document["tasks"][name]), file=sys.stderr, flush=True)


def _load(checkpoint: Path, arguments: argparse.Namespace) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=str(checkpoint),
        device=arguments.device,
        dtype=arguments.dtype,
        softmax_dtype=arguments.softmax_dtype,
        batch_size=arguments.batch_size,
    )


def _artifact(record: RunRecord, store: Store, stage: str) -> Path:
    state = record.stages.get(stage)
    found = store.find(state.key) if state is not None and state.key is not None else None
    if found is None or found.artifact is None:
        sys.exit(f"the run {record.run} has no {stage} in {store.root}: run its manifest there first")
    return store.artifacts.path(found.artifact.digest)


def _questions(task: Task, rows: Callable[[str], list[Row]], limit: int | None) -> Iterator[Questions]:
    if isinstance(task, ChoiceTask):
        grouped = _grouped(rows(task.split), task.group_by)
        examples = _grouped(rows(task.shots_split), task.group_by) if task.shots_split else {}
        for (group, content), share in zip(grouped.items(), _shares(grouped.values(), limit), strict=True):
            shown = examples.get(group, [])[: task.shots]
            yield _built(task.definition.format(group=group), content[:share], {task.metric: task.metric}, shown)
    elif isinstance(task, AttackedTask):
        contents = [rows(split) for split in task.parts]
        for definition, content, share in zip(task.parts.values(), contents, _shares(contents, limit), strict=True):
            yield _built(definition, content[:share], {"acc": "acc"})
    elif isinstance(task, TruthTask):
        content = rows(task.split)[:limit]
        yield _built(task.mc1_definition, content, {"acc": "mc1"})
        yield _built(task.mc2_definition, content, {"acc": "mc2"})


def _grouped(rows: Sequence[Row], field: str | None) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault("" if field is None else str(row[field]), []).append(row)
    return grouped


def _shares(contents: Any, limit: int | None) -> list[int]:
    return share_limit([len(content) for content in contents], limit)


def _built(definition: str, rows: list[Row], metrics: dict[str, str], shown: Sequence[Row] = ()) -> Questions:
    task = load_task(definition, rows, shots=len(shown), examples=shown)
    task.build_all_requests(rank=0, world_size=1)
    return Questions(task, metrics)


def _answer(lm: Any, questions: Sequence[Questions]) -> dict[str, Any]:
    """Means over all items of the task, whose requests go to lm-eval's model at once."""
    requests = [request for one in questions for request in one.task.instances]
    answers = iter(lm.loglikelihood(requests, disable_tqdm=True))
    values: dict[str, list[float]] = {}
    for one in questions:
        by_document: dict[int, list[tuple[float, bool]]] = {}
        for request in one.task.instances:
            by_document.setdefault(request.doc_id, []).append(next(answers))
        for document, responses in by_document.items():
            judged = one.task.process_results(one.task.task_docs[document], responses)
            for theirs, ours in one.metrics.items():
                values.setdefault(ours, []).append(float(judged[theirs]))
    items = max(len(found) for found in values.values())
    return {"metrics": {name: statistics.fmean(found) for name, found in values.items()}, "items": items}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--run", default="last")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", help="all that the run evaluates, if left out")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--softmax-dtype", help="float32, say; lm-eval's own default is the model's")
    parser.add_argument("--batch-size", type=int, default=64)
    return parser.parse_args()


if __name__ == "__main__":
    main()
