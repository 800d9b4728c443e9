"""Every figure of a run's stored results, as the results hold them: what no track is made of is measured, too."""

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from harness.contract import Bound, EvaluateResult, FidelityResult, Frozen, LayerReport, Memory, Operation, Speed
from harness.contract.request import REFERENCE_ENGINE
from orchestrator.evidence.stage_values import notes_of
from orchestrator.evidence.value import Variant
from orchestrator.store import RunRecord, StageRecord, StageState

Number = bool | int | float
_NUMBERS = (bool, int, float)
Figure = Number | tuple[Number, ...]

_ABSENT = "absent"
"""Names the field that says why others beside it are missing, and ends the name of one that says so of one field."""


class StageFigures(Frozen):
    """All numbers of the result that one stage of a run stored, and all that its worker remarked.

    `figures` has them by the path of their field in the result (`speeds.token_latency.p50_seconds`), whose name has the
    unit, and there by what they are of: the element of a list (`batch 8`), the key of a mapping (`macs/shape`), or
    nothing. `absent` says in the same way why some are missing. `target` is the task, with the engine where that is not
    the reference, or the backend; `memory_method` is how the stage took its peak memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    stage: str
    source: str
    operation: Operation
    model: str | None = None
    variant: Variant | None = None
    target: str | None = None
    memory_method: str | None = None
    figures: dict[str, dict[str, Figure]]
    absent: dict[str, dict[str, str]] = {}
    notes: tuple[str, ...] = ()


def measured_figures(record: RunRecord, results: Mapping[str, StageRecord]) -> tuple[StageFigures, ...]:
    """Those of all finished stages, in the order of the run's plan."""
    return tuple(_stage_figures(name, record.stages[name], results[name]) for name in record.stages if name in results)


def _stage_figures(name: str, state: StageState, stage: StageRecord) -> StageFigures:
    result, subject = stage.final.result, state.subject
    walk = _Walk()
    walk.document(result, "", "")
    return StageFigures(
        stage=name,
        source=stage.provenance.key,
        operation=state.operation,
        model=subject.model if subject else None,
        variant=Variant.of(subject) if subject else None,
        target=_target(state, result),
        memory_method=walk.memory_method,
        figures=walk.figures,
        absent=walk.absent,
        notes=notes_of(stage),
    )


def _target(state: StageState, result: BaseModel) -> str | None:
    if isinstance(result, EvaluateResult | FidelityResult) and result.engine != REFERENCE_ENGINE:
        return f"{result.task} by {result.engine}"
    target = state.parameters.get("task") or state.parameters.get("backend")
    return None if target is None else str(target)


class _Walk:
    """Collects the numbers of a document, and the reasons for those that are missing."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, Figure]] = {}
        self.absent: dict[str, dict[str, str]] = {}
        self.memory_method: str | None = None

    def document(self, document: BaseModel, path: str, of: str) -> None:
        if isinstance(document, Memory):
            self.memory_method = document.method
        for name in type(document).model_fields:
            value = getattr(document, name)
            if name == _ABSENT:
                for missing, reason in value.items():
                    self.absent.setdefault(_join(path, missing), {})[of] = reason
            elif name.endswith(f"_{_ABSENT}"):
                if value is not None:
                    self.absent.setdefault(_join(path, name.removesuffix(f"_{_ABSENT}")), {})[of] = value
            else:
                self._value(value, _join(path, name), of)

    def _value(self, value: object, path: str, of: str) -> None:
        if value is None or isinstance(value, str):
            return
        if isinstance(value, _NUMBERS):
            self.figures.setdefault(path, {})[of] = value
        elif isinstance(value, BaseModel):
            self.document(value, path, of)
        elif isinstance(value, Mapping):
            for key, entry in value.items():
                self._value(entry, path, _and(of, key))
        elif isinstance(value, tuple):
            numbers = tuple(entry for entry in value if isinstance(entry, _NUMBERS))
            if numbers:
                self.figures.setdefault(path, {})[of] = numbers
            for label, entry in _labelled(entry for entry in value if isinstance(entry, BaseModel)):
                self.document(entry, path, _and(of, label))


def _labelled(entries: Iterator[BaseModel]) -> Iterator[tuple[str, BaseModel]]:
    """Each element of a list with a name of its own."""
    taken: set[str] = set()
    for number, entry in enumerate(entries):
        label = _name(entry) or str(number)
        label = f"{label} ({number})" if label in taken else label
        taken.add(label)
        yield label, entry


def _name(entry: BaseModel) -> str | None:
    if isinstance(entry, Speed):
        return f"batch {entry.batch_size}"
    if isinstance(entry, Bound):
        return f"{entry.of} ({entry.unit})"
    return entry.name if isinstance(entry, LayerReport) else None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _and(of: str, label: str) -> str:
    return f"{of}, {label}" if of else label
