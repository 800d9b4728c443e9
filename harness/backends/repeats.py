"""What repeated runs of one thing tell: whether they are warm, their median's interval, what differs by chance."""

import itertools
import math
import random
import statistics
from collections.abc import Sequence

from harness.contract import MedianInterval, TokenLatency

_COVERAGE = 0.95
_STABLE = 0.05
_ALL_SPLITS_UP_TO = 12
_RANDOM_SPLITS = 2000
FEWEST_RUNS = 4
"""Of which two halves show what differs by chance."""


def still_warming_up(seconds: Sequence[float]) -> bool:
    """Whether the last of the untimed runs was more than 5 % faster than the fastest one before it, or is the first."""
    return len(seconds) < 2 or seconds[-1] < (1 - _STABLE) * min(seconds[:-1])


def median_interval(samples: Sequence[float]) -> MedianInterval | None:
    """The narrowest pair of order statistics, counted alike from both ends, that holds the true median in 95 of 100.

    Distribution-free: each sample lies below the true median with probability 1/2, whatever they are distributed like.
    None for a single sample.
    """
    if len(samples) < 2:
        return None
    ordered, count = sorted(samples), len(samples)
    rank = 0
    while rank + 1 < (count + 1) // 2 and _coverage(count, rank + 1) >= _COVERAGE:
        rank += 1
    return MedianInterval(low=ordered[rank], high=ordered[count - 1 - rank], coverage=_coverage(count, rank))


def noise_floor(samples: Sequence[float]) -> float | None:
    """The relative difference of two halves' medians that 95 of 100 splits of these runs stay within.

    Never less than the difference between the runs with even and with odd numbers, which drifting clocks enter least.
    With an odd count one half has one run more. None for fewer than four runs.
    """
    if len(samples) < FEWEST_RUNS:
        return None
    ordered = sorted(_differences(samples))
    return max(_apart(samples[::2], samples[1::2]), ordered[math.ceil(_COVERAGE * len(ordered)) - 1])


def token_latency(steps: Sequence[float]) -> TokenLatency:
    """Percentiles of the seconds between successive tokens, by the nearest rank."""
    ordered = sorted(steps)

    def at(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1]

    return TokenLatency(p50_seconds=at(0.5), p90_seconds=at(0.9), p99_seconds=at(0.99), steps=len(ordered))


def _coverage(count: int, rank: int) -> float:
    """1 - 2 P(fewer than rank + 1 of `count` samples lie below the median)."""
    outside: float = 2 * sum(math.comb(count, below) for below in range(rank + 1)) / 2**count
    return 1 - outside


def _differences(samples: Sequence[float]) -> list[float]:
    indices, half = range(len(samples)), len(samples) // 2
    splits: Sequence[Sequence[int]]
    if len(samples) <= _ALL_SPLITS_UP_TO:
        splits = list(itertools.combinations(indices, half))
    else:
        generator = random.Random(0)  # noqa: S311  splits, no secrets
        splits = [generator.sample(indices, half) for _ in range(_RANDOM_SPLITS)]
    differences = []
    for split in splits:
        chosen = set(split)
        first = [samples[index] for index in indices if index in chosen]
        differences.append(_apart(first, [samples[index] for index in indices if index not in chosen]))
    return differences


def _apart(first: Sequence[float], second: Sequence[float]) -> float:
    """The larger median over the smaller one, less 1: the same for either order."""
    one, other = statistics.median(first), statistics.median(second)
    return max(one, other) / min(one, other) - 1
