"""McNemar's exact test: two variants on the same items, each of them right or wrong."""

import numpy as np

from orchestrator.evidence.items import Items
from orchestrator.score.uncertainty.records import McNemar


def mcnemar(a: Items, b: Items) -> McNemar | None:
    """Of the items that only one gets right, each is as likely a's as b's, if the two are equally good.

    None where an item can be partly right, was excluded, or is not the other's.
    """
    if a.right is None or b.right is None or a.identity != b.identity:
        return None
    only_a, only_b = int(np.sum(a.right & ~b.right)), int(np.sum(b.right & ~a.right))
    return McNemar(only_a=only_a, only_b=only_b, p_value=_two_sided(only_a, only_b))


def _two_sided(only_a: int, only_b: int) -> float:
    """Twice the lesser tail of a binomial distribution with p = 1/2, in whole numbers: exact for any size."""
    total = only_a + only_b
    term = tail = 1
    for taken in range(min(only_a, only_b)):
        term = term * (total - taken) // (taken + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << total))
