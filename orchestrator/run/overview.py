"""A plan in a page: what of each model, what not and why, and what it will cost."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from harness.contract import Operation
from orchestrator.manifest import ModelEntry
from orchestrator.run.estimate import Estimate, size_text
from orchestrator.run.run import Setup
from orchestrator.stages import NotPlanned, Plan

_COUNTED = (
    Operation.COMPRESS,
    Operation.EXPORT,
    Operation.EVALUATE,
    Operation.FIDELITY,
    Operation.PROFILE,
    Operation.BENCHMARK,
)


def overview(setup: Setup, cost: Estimate) -> Iterator[str]:
    """The lines of it."""
    manifest, stages = setup.manifest, setup.plan.stages
    operations = Counter(stage.operation for stage in stages)
    counts = ", ".join(f"{count} {operation.value}" for operation, count in operations.items())
    yield f"{manifest.name}: {len(stages)} stages: {counts}"
    for decision in setup.decisions:
        yield f"  {decision}"
    yield ""
    yield from _table(manifest.models, setup.plan, setup.weights_bytes)
    yield ""
    yield from not_planned_lines(setup.plan.not_planned)
    yield from cost.lines


def not_planned_lines(refused: Iterable[NotPlanned]) -> Iterator[str]:
    """A line for each reason, with all that it leaves out."""
    groups: dict[tuple[Operation, str, str, str, str], list[NotPlanned]] = {}
    for one in refused:
        groups.setdefault((one.operation, one.backend, one.message, one.reason.value, one.source), []).append(one)
    for (operation, backend, message, reason, source), found in groups.items():
        on = "" if operation is Operation.COMPRESS else f" on {backend}"
        yield f"not planned: {operation.value} {'; '.join(_whose(found))}{on}: {message} ({reason}; source: {source})"


def _whose(found: Sequence[NotPlanned]) -> Iterator[str]:
    """`rtn-W8A16, awq-W8A16 of a, b`: the models of which the same is left out stand together."""
    by_model: dict[str, dict[str, None]] = {}
    for one in found:
        what = " ".join(filter(None, (one.subject.label.removeprefix(f"{one.subject.model}/"), one.task)))
        by_model.setdefault(one.subject.model, {})[what] = None
    by_parts: dict[str, list[str]] = {}
    for model, parts in by_model.items():
        by_parts.setdefault(", ".join(parts), []).append(model)
    for what, models in by_parts.items():
        yield f"{what} of {', '.join(models)}"


def _table(models: Sequence[ModelEntry], plan: Plan, weights: dict[str, int]) -> Iterator[str]:
    counts = Counter((stage.subject.model, stage.operation) for stage in plan.stages if stage.subject is not None)
    shown = [one for one in _COUNTED if one is not Operation.FIDELITY or any(of is one for _, of in counts)]
    rows = [("model", "architecture", "weights", *(operation.value for operation in shown))]
    rows += [
        (
            model.name,
            plan.architectures.get(model.name, "not known"),
            size_text(weights[model.name]) if model.name in weights else "not stated",
            *(str(counts[model.name, operation]) for operation in shown),
        )
        for model in models
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        words = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join((*words, *numbers)).rstrip()
