"""What of a request cannot be run on this machine: said before anything is, with what can be had instead."""

from collections.abc import Iterator, Mapping, Sequence

from harness.contract import Operation, Reason
from orchestrator.errors import BadManifest
from orchestrator.stages import NotPlanned, Plan

_MEASURES = (Operation.COMPRESS, Operation.EVALUATE, Operation.PROFILE, Operation.BENCHMARK)
_SHOWN = 4


def announcements(plan: Plan, gpu_command: str) -> Iterator[str]:
    """A line for each reason why something is not planned: what it leaves out, and what to do instead.

    `gpu_command` is how the same is asked for on a GPU.
    """
    for (operation, backend, _), found in _by_reason(plan.not_planned).items():
        what = ", ".join(dict.fromkeys(_names(found)))
        by = "" if operation is Operation.COMPRESS else f" on {backend}"
        instead = _instead(found, gpu_command)
        yield f"cannot be run here: {operation.value} of {what}{by}: {found[0].message}{instead and f'; {instead}'}"


def refuse_the_impossible(plan: Plan, gpu_command: str, *, method: str = "", backend: str = "") -> None:
    """Refuse a plan of which nothing would be measured, or nothing by the one method or on the one backend asked for.

    Raises:
        BadManifest: so it is; the hint says what can be had here.
    """
    if not plan.not_planned:
        return
    measured = [stage for stage in plan.stages if stage.operation in _MEASURES]
    if not measured:
        _refuse("nothing that was asked for can be measured here", plan.not_planned, gpu_command)
    for name, operation in ((method, Operation.COMPRESS), (backend, Operation.BENCHMARK)):
        refused = [one for one in plan.not_planned if (one.backend, one.operation) == (name, operation)]
        done = {
            stage.parameters.model_dump().get("method" if operation is Operation.COMPRESS else "backend")
            for stage in measured
            if stage.operation is operation
        }
        if name and refused and name not in done:
            _refuse(f"nothing can be measured {'by' if name == method else 'on'} {name} here", refused, gpu_command)


def _refuse(what: str, refused: Sequence[NotPlanned], gpu_command: str) -> None:
    reasons = list(dict.fromkeys(one.message for one in refused))
    more = f" (and {len(reasons) - 1} more reasons)" if len(reasons) > 1 else ""
    hint = _instead(refused, gpu_command) or "`orchestrator plan` lists what cannot be run, and why"
    raise BadManifest(f"{what}, so nothing was run: {reasons[0]}{more}", hint=hint)


def _by_reason(refused: Sequence[NotPlanned]) -> Mapping[tuple[Operation, str, str], list[NotPlanned]]:
    found: dict[tuple[Operation, str, str], list[NotPlanned]] = {}
    for one in refused:
        found.setdefault((one.operation, one.backend, one.message), []).append(one)
    return found


def _names(refused: Sequence[NotPlanned]) -> Iterator[str]:
    labels = list(dict.fromkeys(" ".join(filter(None, (one.subject.label, one.task))) for one in refused))
    yield from labels[:_SHOWN]
    if len(labels) > _SHOWN:
        yield f"{len(labels) - _SHOWN} more"


def _instead(refused: Sequence[NotPlanned], gpu_command: str) -> str:
    """What serves all of it here, and how to have it on a GPU where the device is what is missing."""
    served = [name for name in refused[0].instead if all(name in one.instead for one in refused)]
    clauses = [f"served here by {', '.join(served)}"] if served else []
    if any(one.reason is Reason.DEVICE for one in refused):
        clauses.append(f"on a machine with an NVIDIA GPU: `{gpu_command}`")
    return "; ".join(clauses)
