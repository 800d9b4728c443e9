"""Every figure that follows from the outcomes of items, by the definitions of docs/protocols.md.

Outcomes are NaN where an item was excluded. Sums are rounded once (`math.fsum`), so that a mean does not depend on the
order of the items.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harness.contract.items import ORIGINAL

Floats = NDArray[np.float64]

OVER_GROUPS = "_over_groups"
"""Ends the name of a metric that is averaged within groups first; the items carry the name without it."""
_STDERR = "_stderr"


def choice_metrics(values: Mapping[str, Floats], groups: Mapping[str, int]) -> dict[str, float]:
    """Means of the outcomes [items] of each metric, with their standard errors over items.

    `groups` counts the items of each group, which follow one another in this order; it is empty where there are none.
    """
    found: dict[str, float] = {}
    for name, outcomes in values.items():
        found |= _with_error(name, _scored(outcomes))
        begin, means = 0, {}
        for group, count in groups.items():
            members = _scored(outcomes[begin : begin + count])
            if len(members):
                means[group] = _mean(members)
            begin += count
        if means:
            found[f"{name}{OVER_GROUPS}"] = _mean(np.array(list(means.values())))
            found |= {f"{name}/{group}": mean for group, mean in means.items()}
    if ORIGINAL in values and "acc" in values:
        found |= _with_error("acc_drop", _scored(values[ORIGINAL] - values["acc"]))
    return found


def segment_metrics(losses: Floats) -> dict[str, float]:
    """From the mean loss of a token in each segment [segments], in nats. Each segment counts the same."""
    nats = _with_error("nats_per_token", _scored(losses))
    return nats | _exponential(nats, "nats_per_token", "perplexity") if nats else {}


def page_metrics(losses: Floats, words: Floats, sizes: Floats) -> dict[str, float]:
    """From the loss of each page [pages], in nats, its words and its bytes: each word, or byte, counts the same."""
    scored = ~np.isnan(losses)
    if not scored.any():
        return {}
    by_word = _per_unit(losses[scored], words[scored])
    by_byte = _per_unit(losses[scored], sizes[scored])
    return (
        _exponential(by_word, "", "word_perplexity")
        | _exponential(by_byte, "", "byte_perplexity")
        | {f"bits_per_byte{name}": value / math.log(2) for name, value in by_byte.items()}
    )


def _scored(outcomes: Floats) -> Floats:
    return outcomes[~np.isnan(outcomes)]


def _mean(values: Floats) -> float:
    return math.fsum(values.tolist()) / len(values)


def _with_error(name: str, values: Floats) -> dict[str, float]:
    if len(values) == 0:
        return {}
    found = {name: _mean(values)}
    if len(values) > 1:
        found[f"{name}{_STDERR}"] = _deviation(values) / math.sqrt(len(values))
    return found


def _deviation(values: Floats) -> float:
    """`np.std(values, ddof=1)`, to the last digit and in a third of the time that it takes for few."""
    apart = values - np.add.reduce(values) / len(values)
    return math.sqrt(np.add.reduce(apart * apart) / (len(values) - 1))


def _per_unit(losses: Floats, units: Floats) -> dict[str, float]:
    """The mean loss of a unit as "", and its standard error by the ratio estimator's linearisation."""
    mean = float(losses.sum() / units.sum())
    found = {"": mean}
    count = len(losses)
    if count > 1:
        residuals = losses - units * mean
        found[_STDERR] = math.sqrt(count / (count - 1) * float(np.square(residuals).sum())) / float(units.sum())
    return found


def _exponential(nats: Mapping[str, float], name: str, perplexity: str) -> dict[str, float]:
    """A perplexity and its standard error to first order."""
    value = _exp(nats[name])
    error = nats.get(f"{name}{_STDERR}")
    return {perplexity: value} | ({} if error is None else {f"{perplexity}{_STDERR}": value * error})


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
