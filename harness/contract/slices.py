"""A slice of a task: some of its items, drawn once for all, so that a larger slice holds each smaller one."""

import hashlib

from pydantic import NonNegativeInt, PositiveInt

from harness.contract.base import Frozen


class Slice(Frozen):
    """The first `items` of a task's items in a random order; another `seed` is another order."""

    items: PositiveInt
    seed: NonNegativeInt = 0

    def numbers(self, count: int) -> tuple[int, ...]:
        """Which of the items 0 to `count` - 1 these are, ascending; all, where there are no more.

        An item's place in the order follows from its number and the seed alone, in any language: by the sha256 of
        `<seed>/<number>`.
        """
        order = sorted(range(count), key=lambda number: hashlib.sha256(b"%d/%d" % (self.seed, number)).digest())
        return tuple(sorted(order[: self.items]))
