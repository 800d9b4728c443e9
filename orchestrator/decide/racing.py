"""A race: items in growing slices, and after each a look at which variants all items may still recommend.

What is decided is what all items of the run would decide. They are a finite number: n of N leave the share (1 - n / N)
of a variance open, and nothing at N. After each look many outcomes of the full run are imagined, by the paired spread
of what was seen, and each is decided on (`foreseeing`). Those variants are set aside that at most the share `ASIDE` of
them recommends, together. Where the rest falls behind later, what was set aside returns.

It is decided when all but the share `DOUBT_LEFT` of the imagined full runs give one answer, or cannot tell it apart
from their own: items that only tell such apart would be spent for nothing. What was seen has to give that answer, too,
so that `recommend` says the same of the items that were scored.

Looking often costs nothing of that sureness. If the imagined full runs are drawn as they should be, the share of them
with one answer is a martingale of looks, so that a race that stops at 98 of 100, whenever that is, is right in 98 of
100 races (optional stopping). That is over the populations that the sample may come from; of a given one near a limit
it need not hold, which is why docs/racing.md replays races on one.

Costs come first, since they cost no items. Then dense alone is scored until it is clear at which tasks it beats
guessing: the others show no loss (`accuracy`), and no other variant is scored on them.

Stopping as soon as the end is foreseen is stochastic curtailment. Source: Lan, Simon and Halperin, Sequential Analysis
1 (1982), 207.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from orchestrator.decide.foreseeing import NOTHING, Answers, Field, Moments, SeenLosses, answers, seen_losses
from orchestrator.evidence.value import DENSE, Variant
from orchestrator.figures.metrics import Floats

DOUBT_LEFT = 0.02
"""The share of the imagined full runs with another answer at which a race is decided."""
ASIDE = DOUBT_LEFT / 2
"""The share of the imagined full runs that may recommend, together, what is set aside."""
DOUBT_OF_TASKS = 0.01
"""Of counting a task that the full run leaves out, or the reverse, over all tasks and looks."""
FIRST_ITEMS = 100
IMAGINED = 1000
_SURELY_ABOVE_GUESSING = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class RaceTask:
    """`items` are those of the full run. `guessing` is the share that picking by chance gets right, None where that is
    not known; then the task counts."""

    name: str
    items: int
    guessing: float | None


@dataclass(frozen=True)
class Slice:
    """The first so many items of each task, to be scored by these variants; what was scored before is among them."""

    items: Mapping[str, int]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Look:
    """What was seen after a slice. `fell` has the reason for each variant that is set aside; `left` may still be
    recommended by all items, and `returned` of them had been set aside before. `likely` is the share of the imagined
    full runs that give the answer of what was seen, or cannot tell it apart from theirs; None where dense alone was
    looked at."""

    number: int
    items: Mapping[str, int]
    fell: Mapping[Variant, str]
    left: tuple[Variant, ...]
    returned: tuple[Variant, ...] = ()
    likely: float | None = None


def schedule(most: int, first: int = FIRST_ITEMS) -> tuple[int, ...]:
    """Doubling, up to the items of the largest task."""
    sizes = [first]
    while sizes[-1] < most:
        sizes.append(min(2 * sizes[-1], most))
    return tuple(sizes)


class Race:
    """Ask `wanted` for a slice, score it, give `look` its moments, until nothing is wanted: then there is an answer."""

    def __init__(self, field: Field, tasks: Sequence[RaceTask], *, imagined: int = IMAGINED, seed: int = 0) -> None:
        self.field = field
        self.looks: list[Look] = []
        self.losses = np.full(len(field.variants), np.nan)
        self.losses[0] = 0.0
        self._tasks = {task.name: task for task in tasks}
        self._sizes = schedule(max(task.items for task in tasks))
        self._open_tasks = [task.name for task in tasks if task.guessing is not None]
        self._counted = [task.name for task in tasks if task.guessing is None]
        self._step = 0
        self._left = field.could_be_chosen
        self._imagined = imagined
        self._generator = np.random.default_rng(seed)
        count = len(field.variants)
        self._seen, self._full, self._to_full = (np.zeros((count, count)) for _ in range(3))
        self._answer: int | None = None
        if not self._left:
            self._answer = self._without_any()

    @property
    def counted(self) -> tuple[str, ...]:
        """The tasks that the loss is taken over, as far as is known."""
        return tuple(name for name in self._tasks if name in self._counted)

    @property
    def decided(self) -> bool:
        return self._answer is not None

    @property
    def answer(self) -> int:
        """The number of the recommended candidate, or `NOTHING`."""
        if self._answer is None:
            raise ValueError("the race is not decided yet")
        return self._answer

    def items_of(self, task: str) -> int:
        """Those of the full run."""
        return self._tasks[task].items

    @property
    def left(self) -> tuple[Variant, ...]:
        """What all items may still recommend, dense aside."""
        return self._left

    def drop(self, variant: Variant) -> None:
        """It could not be scored, so that its loss is not known and it is not recommended."""
        number = self.field.variants.index(variant)
        others = np.arange(len(self.field.variants)) != number
        self.field = replace(
            self.field, eligible=self.field.eligible & (self.field.column != number), asked=self.field.asked & others
        )
        self.losses[number] = np.nan
        self._left = tuple(one for one in self._left if one != variant)
        if not self._left and not self.decided:
            self._answer = self._without_any()

    def wanted(self) -> Slice | None:
        """None once it is decided."""
        if self.decided:
            return None
        if self._open_tasks:
            return Slice(self._items_of(self._open_tasks), (DENSE,))
        return Slice(self._items_of(self._counted), (DENSE, *self._left))

    def look(self, moments: Mapping[str, Moments]) -> Look:
        """What the wanted slice came to, by task; its variants in their order."""
        slice_ = self.wanted()
        if slice_ is None:
            raise ValueError("the race is decided, so that no slice is wanted")
        self._step += 1
        made = self._look_at_dense(slice_, moments) if self._open_tasks else self._look(slice_, moments)
        self.looks.append(made)
        return made

    def _items_of(self, names: Sequence[str]) -> dict[str, int]:
        size = self._sizes[min(self._step, len(self._sizes) - 1)]
        return {name: min(size, self._tasks[name].items) for name in names}

    def _look_at_dense(self, slice_: Slice, moments: Mapping[str, Moments]) -> Look:
        doubt = DOUBT_OF_TASKS / (len(self._tasks) * len(self._sizes))
        for name in tuple(self._open_tasks):
            beats = _beats_guessing(moments[name], self._tasks[name].guessing or 0.0, doubt)
            if beats is not None:
                self._open_tasks.remove(name)
            if beats:
                self._counted.append(name)
        if not self._open_tasks:
            self._begin_with_variants()
        return Look(len(self.looks) + 1, slice_.items, {}, self._left)

    def _begin_with_variants(self) -> None:
        self._step = 0
        if self._counted:
            self._sizes = schedule(max(self._tasks[name].items for name in self._counted))
        else:
            self._answer = int(answers(replace(self.field, loss_weight=0.0), self.losses[None], self._full).chosen[0])

    def _look(self, slice_: Slice, moments: Mapping[str, Moments]) -> Look:
        columns = [self.field.variants.index(one) for one in slice_.variants]
        self._take(columns, seen_losses([moments[name] for name in self._counted]))
        imagined = self._imagine(columns)
        found = answers(self.field, imagined, self._full)
        as_seen = self._as_seen()
        likely = self._share_with(found, as_seen)
        chosen = np.bincount(found.chosen + 1, minlength=len(self.field.candidates) + 1) / len(found.chosen)
        before, aside = self._left, self._set_aside(chosen[1:])
        self._left = tuple(one for one in self.field.could_be_chosen if one not in aside)
        returned = tuple(one for one in self._left if one not in before)
        at_end = all(count == self._tasks[name].items for name, count in slice_.items.items()) and not returned
        if likely >= 1 - DOUBT_LEFT or at_end:
            self._answer = as_seen
        elif not self._left:
            self._answer = self._without_any()
        reasons = {one: self._why(one, as_seen, imagined) for one in before if one in aside}
        return Look(len(self.looks) + 1, slice_.items, reasons, self._left, returned, likely)

    def _as_seen(self) -> int:
        return int(answers(self.field, self.losses[None], self._seen).chosen[0])

    def _without_any(self) -> int:
        """The answer where no compressed variant can be recommended: dense, or nothing."""
        dense = replace(self.field, eligible=self.field.eligible & (self.field.column == 0))
        return int(answers(dense, self.losses[None], self._full).chosen[0])

    def _share_with(self, found: Answers, answer: int) -> float:
        """Of the imagined full runs that recommend the answer or what they cannot tell apart from it; dense, which is
        kept for want of anything certainly better, and nothing at all are no other's like."""
        if answer == NOTHING or self.field.column[answer] == 0:
            return float(np.mean(found.chosen == answer))
        compressed = (found.chosen != NOTHING) & (self.field.column[found.chosen] != 0)
        return float(np.mean(compressed & found.alike[:, answer]))

    def _take(self, columns: Sequence[int], seen: SeenLosses) -> None:
        """What was set aside keeps the spread that it had, and no longer goes together with the rest."""
        place = np.ix_(columns, columns)
        self.losses[columns] = seen.losses
        for kept, new in ((self._seen, seen.seen), (self._full, seen.full), (self._to_full, seen.to_full)):
            diagonal = np.diag(kept).copy()
            kept[:] = np.diag(diagonal)
            kept[place] = new

    def _imagine(self, columns: Sequence[int]) -> Floats:
        """Losses that all items may come to [imagined, variants]."""
        values, vectors = np.linalg.eigh(self._to_full)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = self._generator.standard_normal((self._imagined, len(self.losses)))
        return np.asarray(self.losses + normal @ root.T)

    def _set_aside(self, shares: Floats) -> set[Variant]:
        """Those that at most the share `ASIDE` of the imagined full runs recommends, together."""
        of_variant = {
            one: float(shares[self.field.column == self.field.variants.index(one)].sum())
            for one in self.field.could_be_chosen
        }
        ranked = sorted(of_variant, key=of_variant.__getitem__)
        within = np.cumsum([of_variant[one] for one in ranked]) <= ASIDE
        return {one for one, falls in zip(ranked, within, strict=True) if falls}

    def _why(self, variant: Variant, answer: int, imagined: Floats) -> str:
        number = self.field.variants.index(variant)
        low, high = np.quantile(imagined[:, number], (0.005, 0.995))
        most = self.field.max_loss
        if most is not None and low + 2 * float(np.sqrt(self._full[number, number])) > most:
            return f"it loses {low:.1%} to {high:.1%}, which all items would not show to be at most {most:.1%}"
        other = "another" if answer == NOTHING else self.field.candidates[answer].label
        return f"it loses {low:.1%} to {high:.1%}, and {other} is preferred"


def _beats_guessing(dense: Moments, guessing: float, doubt: float) -> bool | None:
    """Whether dense is surely better than by guessing over all items, None while that cannot be foreseen."""
    deviation = np.sqrt((dense.items * float(dense.covariance[0, 0]) + 1) / (dense.items + 4))
    clear = float(dense.means[0]) - guessing - _SURELY_ABOVE_GUESSING * deviation / np.sqrt(dense.of)
    if dense.items == dense.of:
        return bool(clear > 0)
    left = deviation * np.sqrt(1 / dense.items - 1 / dense.of)
    return bool(clear > 0) if abs(clear) >= -NormalDist().inv_cdf(doubt) * left else None
