"""Whether a result came out again: equal bytes where all that decides them is the same, else by its kind."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.contract import (
    CheckpointDescriptor,
    DatasetDescriptor,
    Descriptor,
    DeviceKind,
    Environment,
    EvaluateResult,
    FidelityResult,
    ProfileResult,
)
from harness.contract.items import OF_PICK, AttackedItem, ChoiceItem, FidelityItem, Item, JudgedItem, SegmentItem
from orchestrator.artifact.contents import Tolerances
from orchestrator.artifact.reproduction import Judgement, Kind, Verdict, Why
from orchestrator.store import StageRecord, Store

_WEIGHTS = (".safetensors", ".gguf")
_COUNTED = ("disk_bytes", "weight_bytes", "parameter_count", "macs", "macs_tokens", "kv_cache_bytes")


@dataclass(frozen=True)
class Side:
    """One of two results of the same stage, and the store that it lies in."""

    stage: StageRecord
    store: Store

    @property
    def items(self) -> tuple[Item, ...]:
        return self.store.outcomes.items(self.stage)

    @property
    def divergences(self) -> tuple[FidelityItem, ...]:
        return self.store.outcomes.divergences(self.stage)


def why_other(packed: StageRecord, here: StageRecord) -> str | None:
    """Why two results of one stage need not be equal byte by byte, in a clause; None where they have to be."""
    one, other = packed.provenance.material, here.provenance.material
    reasons = (
        ("of other source", one.get("code") != other.get("code")),
        ("in another environment", one.get("image") != other.get("image")),
        ("with other threads or devices", _parallel(one) != _parallel(other)),
        ("on another processor", not _same_processor(packed.final.environment, here.final.environment)),
        ("of other inputs", one.get("inputs") != other.get("inputs")),
    )
    return next((reason for reason, differs in reasons if differs), None)


def _parallel(material: Mapping[str, Any]) -> tuple[Any, Any]:
    device = material.get("device") or {}
    return device.get("threads"), device.get("count")


def _same_processor(one: Environment, other: Environment) -> bool:
    """Of a processor, the family; what does not say it is of none. Of a GPU the model, with the same driver."""
    if one.device_kind is DeviceKind.CPU and other.device_kind is DeviceKind.CPU:
        return one.cpu_family is not None and one.cpu_family == other.cpu_family
    return (one.device_kind, one.device_model, one.driver) == (other.device_kind, other.device_model, other.driver)


def judge_stage(name: str, packed: Side, here: Side, tolerances: Tolerances) -> Iterator[Judgement]:
    """What can be said of two results of one stage. Nothing is of what was timed: see `ratios`.

    Raises:
        Refused: a stored result is not what its parts give.
    """
    result, found = packed.stage.final.result, here.stage.final.result
    other = why_other(packed.stage, here.stage)
    if packed.stage.artifact is not None and here.stage.artifact is not None:
        yield _artifact(name, packed.stage.artifact, here.stage.artifact, other)
    elif isinstance(result, EvaluateResult) and isinstance(found, EvaluateResult):
        yield from _evaluation(name, (packed, result), (here, found), other, tolerances)
    elif isinstance(result, FidelityResult) and isinstance(found, FidelityResult):
        yield from _fidelity(name, (packed, result), (here, found), other, tolerances)
    elif isinstance(result, ProfileResult) and isinstance(found, ProfileResult):
        differing = [one for one in _COUNTED if getattr(result, one) != getattr(found, one)]
        yield _told(name, Kind.COUNTS, not differing, ", ".join(differing) + " differ" if differing else "all equal")
    else:
        says = "times are compared with nobody's"
        yield Judgement(what=name, kind=Kind.MEASURED, verdict=Verdict.NOT_RUN, says=says, why=Why.NEVER)


def _told(what: str, kind: Kind, holds: bool, says: str) -> Judgement:
    return Judgement(what=what, kind=kind, verdict=Verdict.PASS if holds else Verdict.FAIL, says=says)


def _artifact(name: str, packed: Descriptor, here: Descriptor, other: str | None) -> Judgement:
    if packed.digest == here.digest:
        return _told(name, Kind.BYTES, True, f"{packed.size_bytes} bytes")
    origins = [one.origin for one in (packed, here) if isinstance(one, DatasetDescriptor)]
    if len(set(origins)) > 1:
        says = f"its rows are {origins[1]}'s here, and were {origins[0]}'s"
        return Judgement(what=name, kind=Kind.BYTES, verdict=Verdict.NOT_RUN, says=says, why=Why.OTHERWISE)
    if packed.files == here.files:
        return _told(name, Kind.BYTES, True, "all files; what is said of them beside differs")
    if origins:
        return _told(name, Kind.BYTES, False, "its rows are other ones, of the same origin")
    if other is None:
        return _told(name, Kind.BYTES, False, "its files are other ones, though all that decides them is the same")
    sizes, found = _weight_sizes(packed), _weight_sizes(here)
    says = "files of weights are as large" if sizes == found else "files of weights are of other names or sizes"
    return _told(name, Kind.COUNTS, sizes == found, f"{says}, {other}")


def _weight_sizes(descriptor: Descriptor) -> dict[str, int]:
    """Of a checkpoint; of other things, of all files."""
    return {
        name: entry.size_bytes
        for name, entry in descriptor.files.items()
        if not isinstance(descriptor, CheckpointDescriptor) or name.endswith(_WEIGHTS)
    }


def _evaluation(
    name: str,
    packed: tuple[Side, EvaluateResult],
    here: tuple[Side, EvaluateResult],
    other: str | None,
    tolerances: Tolerances,
) -> Iterator[Judgement]:
    items, found = packed[0].items, here[0].items
    if items == found:
        yield _told(name, Kind.BYTES, True, f"{len(items)} outcomes")
        return
    if [_identity(one) for one in items] != [_identity(one) for one in found]:
        says = "its items are other ones"
        if _data(packed[0]) != _data(here[0]):
            why = f"{says}, of other data"
            yield Judgement(what=name, kind=Kind.PICKS, verdict=Verdict.NOT_RUN, says=why, why=Why.OTHERWISE)
        else:
            yield _told(name, Kind.PICKS, False, f"{says}, of the same data")
        return
    pairs = list(zip(items, found, strict=True))
    if other is None:
        differing = sum(one != two for one, two in pairs)
        says = f"{differing} of {len(pairs)} outcomes differ, though all that decides them is the same"
        yield _told(name, Kind.BYTES, False, says)
        return
    yield from _outcomes(name, pairs, packed[1].metric, tolerances)
    if "perplexity" in packed[1].metric:
        one, two = (side[1].metrics[packed[1].metric] for side in (packed, here))
        yield _perplexity(name, one, two, tolerances)


def _identity(item: Item) -> tuple[object, ...]:
    return type(item), item.index, getattr(item, "document", None), getattr(item, "tokens", None)


def _data(side: Side) -> object:
    return side.stage.provenance.material.get("inputs", {}).get("dataset")


def _outcomes(
    name: str, pairs: Sequence[tuple[Item, Item]], metric: str, tolerances: Tolerances
) -> Iterator[Judgement]:
    asked = [(one, two) for one, two in pairs if isinstance(one, JudgedItem) and isinstance(two, JudgedItem)]
    if asked:
        most = max(1, math.floor(tolerances.most_other_picks * len(asked)))
        others = sum(_pick(one, metric) != _pick(two, metric) for one, two in asked)
        yield _told(name, Kind.PICKS, others <= most, f"{others} of {len(asked)} otherwise, {most} may be")
    distances, choices = [], 0.0
    for one, two in pairs:
        values, found, weight = _log_likelihoods(one), _log_likelihoods(two), 1.0
        if isinstance(one, SegmentItem):
            weight = one.tokens / tolerances.tokens_of_a_choice
        both = [(a, b) for a, b in zip(values, found, strict=False) if a is not None and b is not None]
        distances += [abs(a - b) for a, b in both]
        choices += weight * len(both)
    if choices:
        nats = math.fsum(distances) / choices
        is_text = isinstance(pairs[0][0], SegmentItem)
        unit = f"{tolerances.tokens_of_a_choice:g} tokens" if is_text else "a choice"
        says = f"{nats:.3g} nats in {unit} on average, {tolerances.most_mean_nats:g} may be"
        yield _told(name, Kind.LOG_LIKELIHOODS, nats <= tolerances.most_mean_nats, says)


def _pick(item: JudgedItem, metric: str) -> object:
    if isinstance(item, ChoiceItem):
        return getattr(item, OF_PICK.get(metric, "picked"))
    return json.dumps(item.correct, sort_keys=True)


def _log_likelihoods(item: Item) -> tuple[float | None, ...]:
    if isinstance(item, SegmentItem):
        return (item.negative_log_likelihood,)
    if isinstance(item, AttackedItem):
        return item.log_likelihoods + item.original_log_likelihoods
    return item.log_likelihoods if isinstance(item, ChoiceItem) else ()


def _perplexity(name: str, packed: float, here: float, tolerances: Tolerances) -> Judgement:
    percent = 100 * abs(here / packed - 1)
    most = tolerances.most_perplexity_percent
    says = f"{here:.4g} here, {packed:.4g} in the file: {percent:.2g} %, {most:g} % may be"
    return _told(name, Kind.PERPLEXITY, percent <= most, says)


def _fidelity(
    name: str,
    packed: tuple[Side, FidelityResult],
    here: tuple[Side, FidelityResult],
    other: str | None,
    tolerances: Tolerances,
) -> Iterator[Judgement]:
    items, found = packed[0].divergences, here[0].divergences
    if items == found:
        yield _told(name, Kind.BYTES, True, f"{len(items)} outcomes")
        return
    if other is None:
        says = f"outcomes of {len(items)} texts differ, though all that decides them is the same"
        yield _told(name, Kind.BYTES, False, says)
        return
    one, two = packed[1].metrics, here[1].metrics
    share = abs(one.get("same_top", 0.0) - two.get("same_top", 0.0))
    most = tolerances.most_other_picks
    says = f"the share of tokens that dense finds likeliest, too, differs by {share:.2g}, {most:g} may be"
    yield _told(name, Kind.DIVERGENCE, share <= most, says)
    if "nats_per_token" in one and "nats_per_token" in two:
        yield _perplexity(name, math.exp(one["nats_per_token"]), math.exp(two["nats_per_token"]), tolerances)
