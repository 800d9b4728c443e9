"""One `fidelity` request: a checkpoint's next-token distributions held against the dense model's, token by token."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.contract import FidelityRequest, FidelityResult, StatesDescriptor
from harness.contract.divergence import divergence_metrics
from harness.contract.items import NOT_FINITE, FidelityItem
from harness.errors import BadCheckpoint, BadRequest
from harness.inputs import input_folder
from harness.reporter import Reporter

if TYPE_CHECKING:
    from harness.evaluation.engine import EngineFacts
    from harness.fidelity.divergence import Compared


def run(request: FidelityRequest, reporter: Reporter) -> FidelityResult:
    """Hold the input `checkpoint` against the input `states`, which are the dense model's.

    Raises:
        Unsupported: the two have different vocabularies, or the model cannot be compared.
        BadRequest: an input is missing or not usable, or the states are of another task.
        BadCheckpoint: the model gives no finite numbers at all.
    """
    from harness.evaluation.outcomes import write_items
    from harness.fidelity.others import open_other
    from harness.fidelity.states import KeptStates

    begin = time.monotonic()
    parameters = request.parameters
    kept = KeptStates(input_folder(request, "states"), parameters.limit)
    described = kept.descriptor
    if described.task != parameters.task:
        raise BadRequest(
            f"the states are those of {described.task!r}, and {parameters.task!r} is asked for",
            hint=f"give the states of {parameters.task!r} as the input 'states'",
        )
    compared: dict[int, list[Compared]] = {}
    total = len(set(kept.items))
    with open_other(request, kept) as other:
        scoring = time.monotonic()
        for part in other.against(kept):
            item = kept.items[part.number]
            compared.setdefault(item, []).append(part.compared)
            reporter.progress(item + 1, total, "segments")
        facts, protocol = other.facts, parameters.protocol_of(f"{other.protocol}/{described.protocol}")
    items = [_item(index, parts) for index, parts in sorted(compared.items())]
    scored = [item for item in items if item.is_scored]
    if not scored:
        raise BadCheckpoint(
            "the model gives no finite distribution to any of the text: its weights or activations overflow",
            hint="compare in float32 (parameter dtype); if that does not help, the checkpoint itself is broken",
        )
    end = time.monotonic()
    return FidelityResult(
        task=described.task,
        engine=parameters.engine,
        protocol=protocol,
        states=described.digest,
        metrics=divergence_metrics(items),
        items=len(scored),
        items_available=described.items_available,
        tokens=sum(item.tokens for item in scored),
        excluded={NOT_FINITE: len(items) - len(scored)} if len(items) > len(scored) else {},
        items_file=write_items(items, Path(request.output)),
        dtype=facts.dtype,
        dtype_reason=facts.dtype_reason,
        wall_seconds=end - begin,
        load_seconds=facts.load_seconds,
        score_seconds=end - scoring,
        notes=tuple(_notes(facts, described)),
    )


def _notes(facts: "EngineFacts", described: StatesDescriptor) -> Iterator[str]:
    yield from filter(None, [facts.quantization_note])
    yield from facts.notes
    if (dtype := facts.dtype.value) != (dense := described.dtype.value):
        yield f"computed in {dtype}, and dense in {dense}: the divergence has that in it, too"


def _item(index: int, parts: "list[Compared]") -> FidelityItem:
    """The outcome of all requests of an item. Sums are float64, a token's divergence the nearest float32."""
    from harness.fidelity.divergence import Compared

    found = Compared.joined(parts)
    divergences = found.divergences.cpu().numpy().astype(np.float32)
    right, dense = (one.cpu().numpy().astype(np.float64) for one in (found.right, found.dense_right))
    if not (np.isfinite(divergences).all() and np.isfinite(right).all() and np.isfinite(dense).all()):
        return FidelityItem(index=index, tokens=len(divergences), divergences=None)
    change = np.exp(right) - np.exp(dense)
    return FidelityItem(
        index=index,
        tokens=len(divergences),
        divergences=tuple(float(str(one)) for one in divergences),
        same_top=int(found.same_top.sum()),
        right_probability=float(np.exp(right).sum()),
        dense_right_probability=float(np.exp(dense).sum()),
        squared_change=float(np.square(change).sum()),
        nats=max(0.0, -float(right.sum())),
        dense_nats=max(0.0, -float(dense.sum())),
    )
