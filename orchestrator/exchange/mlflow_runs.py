"""A run as runs of MLflow: one for each variant of each model, with its figures as metrics.

MLflow is an optional extra (`pip install 'llmcbench[mlflow]'`): its small edition, and what that needs for SQLite.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import RuntimeUnavailable, StoreError
from orchestrator.evidence.reading import Evidence
from orchestrator.evidence.value import Interval
from orchestrator.exchange.writing import Exported
from orchestrator.score.scores import score_run
from orchestrator.stages import Subject
from orchestrator.store import RunRecord, Store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_NOT_IN_A_NAME = re.compile(r"[^\w./ -]+")
_MOST_METRICS = 1000
"""In one batch, by MLflow's REST interface."""


@dataclass(frozen=True)
class LoggedRun:
    """What MLflow is told of one variant of one model. Times are milliseconds since 1970."""

    name: str
    parameters: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    begun_ms: int
    ended_ms: int


def export_mlflow(record: RunRecord, evidence: Evidence, store: Store, tracking_uri: str) -> Exported:
    """Log a run to MLflow's tracking store, in an experiment that is called like the run.

    What was logged before stands: a second export adds runs.

    Raises:
        RuntimeUnavailable: MLflow is not installed.
        StoreError: MLflow cannot keep the runs there; its own message is in it.
    """
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as absent:
        raise RuntimeUnavailable(
            f"MLflow cannot be imported: {absent}", hint="pip install 'llmcbench[mlflow]', or use --format lm-eval"
        ) from absent
    left_out: list[str] = []
    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        found = client.get_experiment_by_name(record.run)
        experiment = client.create_experiment(record.run) if found is None else found.experiment_id
        logged = tuple(_log(client, experiment, one) for one in logged_runs(record, evidence, store, left_out))
    except MlflowException as failure:
        raise StoreError(
            f"MLflow cannot keep the run at {tracking_uri}: {failure}", hint="name another with --tracking-uri"
        ) from failure
    return Exported(logged, tuple(left_out))


def logged_runs(
    record: RunRecord, evidence: Evidence, store: Store, left_out: list[str] | None = None
) -> Iterator[LoggedRun]:
    """One for each variant of each model that has a value.

    An overall metric is of all models of a run together, and logged where the run has but one. A figure that is no
    finite number is told in `left_out`.
    """
    scores = score_run(evidence).scores if len(record.manifest.models) == 1 else ()
    for model in record.manifest.models:
        for variant in evidence.variants:
            name = Subject(model=model.name, family="", method=variant.method, setting=variant.setting).label
            metrics: dict[str, float] = {}
            tags = {"llmcbench.run": record.run, "llmcbench.results": str(store.runs.folder / record.run)}
            for value in evidence.values.of(variant):
                if value.place.model == model.name:
                    metric = _name(f"track{value.place.track.value}/{value.place.part}/{value.place.name}")
                    metrics |= _figures(metric, value.value, value.interval)
                    tags |= {f"unit {metric}": value.unit, f"protocol {metric}": value.protocol}
            if not metrics:
                continue
            for score in scores:
                if score.variant == variant and score.value is not None:
                    metrics |= _figures(score.track.metric, score.value, score.interval)
            infinite = [metric for metric, figure in metrics.items() if not math.isfinite(figure)]
            if left_out is not None:
                left_out += [f"{metric} of {name}: no finite number" for metric in infinite]
            ended = record.ended or record.updated
            yield LoggedRun(
                name=name,
                parameters={
                    "model": model.name,
                    "source": model.source,
                    "method": variant.method or "dense",
                    "setting": variant.setting or "none",
                    "runtime": record.runtime,
                    "device": record.device_model,
                    "version": record.facts.version or "not recorded",
                },
                tags=tags,
                metrics={metric: figure for metric, figure in metrics.items() if metric not in infinite},
                begun_ms=int(record.created.timestamp() * 1000),
                ended_ms=int(ended.timestamp() * 1000),
            )


def _figures(metric: str, value: float, interval: Interval | None) -> dict[str, float]:
    ends = {} if interval is None else {f"{metric}/low": interval.low, f"{metric}/high": interval.high}
    return {metric: value, **ends}


def _name(text: str) -> str:
    return _NOT_IN_A_NAME.sub("_", text)


def _log(client: "MlflowClient", experiment: str, run: LoggedRun) -> str:
    """The new run's name and its id."""
    from mlflow.entities import Metric, Param, RunTag

    made = client.create_run(experiment, start_time=run.begun_ms, run_name=run.name)
    metrics = [Metric(name, figure, run.ended_ms, 0) for name, figure in run.metrics.items()]
    params = [Param(name, value) for name, value in run.parameters.items()]
    tags = [RunTag(name, value) for name, value in run.tags.items()]
    client.log_batch(made.info.run_id, metrics=metrics[:_MOST_METRICS], params=params, tags=tags)
    for begin in range(_MOST_METRICS, len(metrics), _MOST_METRICS):
        client.log_batch(made.info.run_id, metrics=metrics[begin : begin + _MOST_METRICS])
    client.set_terminated(made.info.run_id, "FINISHED", end_time=run.ended_ms)
    return f"{run.name} {made.info.run_id}"
