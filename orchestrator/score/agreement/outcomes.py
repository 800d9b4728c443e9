"""The outcomes of two evaluations beside one another."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.evidence.items import NoInterval, read_outcomes
from orchestrator.score.agreement.records import ItemDifference, LogLikelihoods

_PICKS = {"acc_norm": "picked_norm"}
"""The field that holds the pick of a metric; `picked` for the others."""


@dataclass(frozen=True)
class Outcome:
    """One item. `name` tells it from others of the same number; `gold` is None where there is nothing to pick."""

    index: int
    name: str
    group: str | None
    gold: int | None
    picked: int | None
    log_likelihoods: LogLikelihoods


@dataclass(frozen=True)
class Differences:
    """What the items of two evaluations come to. See `orchestrator.score.agreement.records.TaskAgreement`."""

    items: int
    picks: int
    differing: tuple[ItemDifference, ...]
    nats: tuple[tuple[float, int], ...]
    """Absolute difference of each log-likelihood that both have, and the item that it belongs to."""

    @property
    def facts(self) -> dict[str, Any]:
        identical = self.picks - len(self.differing)
        largest, index = max(self.nats, default=(None, None))
        return {
            "items": self.items,
            "picks": self.picks,
            "identical_picks": identical,
            "identical_percent": 100 * identical / self.picks if self.picks else None,
            "log_likelihoods": len(self.nats),
            "mean_difference_nats": math.fsum(nats for nats, _ in self.nats) / len(self.nats) if self.nats else None,
            "largest_difference_nats": largest,
            "largest_difference_index": index,
            "differing": self.differing,
        }


def compare_outcomes(reference: Path, engine: Path, metric: str) -> Differences:
    """Hold the items of two files of outcomes against one another, by their numbers.

    Raises:
        NoInterval: a file is missing or damaged, or they are not of the same items.
    """
    sides = [_read(path, metric) for path in (reference, engine)]
    if [(one.index, one.name, one.gold) for one in sides[0]] != [(one.index, one.name, one.gold) for one in sides[1]]:
        raise NoInterval("not of the same items")
    pairs = list(zip(*sides, strict=True))
    return Differences(
        items=len(pairs),
        picks=sum(one.gold is not None for one, _ in pairs),
        differing=tuple(_difference(one, other) for one, other in pairs if one.picked != other.picked),
        nats=tuple(
            (abs(a - b), one.index)
            for one, other in pairs
            for a, b in zip(one.log_likelihoods, other.log_likelihoods, strict=True)
            if a is not None and b is not None
        ),
    )


def _read(path: Path, metric: str) -> list[Outcome]:
    picked = _PICKS.get(metric, "picked")
    return sorted(read_outcomes(path, lambda item: _outcome(item, picked)), key=lambda one: one.index)


def _outcome(item: dict[str, Any], picked: str) -> Outcome:
    index = int(item["index"])
    if "negative_log_likelihood" in item:
        loss, name = item["negative_log_likelihood"], f"{item.get('document', '')} of {item['tokens']} tokens"
        return Outcome(index, name, None, None, None, (None if loss is None else -float(loss),))
    found = (*item["log_likelihoods"], *item.get("original_log_likelihoods", ()))
    log_likelihoods = tuple(None if value is None else float(value) for value in found)
    name = f"{item['document']} with {len(found)} choices"
    return Outcome(index, name, item.get("group"), int(item["gold"]), item[picked], log_likelihoods)


def _difference(reference: Outcome, engine: Outcome) -> ItemDifference:
    return ItemDifference(
        index=reference.index,
        document=reference.name.partition(" ")[0],
        group=reference.group,
        gold=reference.gold or 0,
        reference_picked=reference.picked,
        engine_picked=engine.picked,
        reference_log_likelihoods=reference.log_likelihoods,
        engine_log_likelihoods=engine.log_likelihoods,
    )
