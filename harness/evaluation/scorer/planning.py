"""How chains are put together for forward passes: trees of chains in rows, rows in batches, batches after a trunk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.evaluation.scorer.chains import Chain, Tokens
from harness.evaluation.scorer.trunks import Trunk, TrunkCosts, choose_trunks, shared_lengths

_NOT_SMALL = 1 / 4
"""Of the token budget."""
_MOST_PADDING = 1 / 8
"""Of a row's length, in a batch that is not small."""


@dataclass(frozen=True)
class PlanLimits:
    """`token_budget` bounds the tokens of a batch, padding included, unless a single row is longer.

    `row_tokens`: in a row every token is compared with every other, so rows are kept short. A longer one is made only
    of chains with more in common than not, up to `longest`, which bounds trunks as well; a chain alone may be longer.
    `pass_tokens` is what a trunk costs beside its own tokens: a pass of its own, and batches that are not full.
    Without `share` every chain has a row of its own and there is no trunk.
    """

    token_budget: int
    row_tokens: int
    longest: int
    pass_tokens: int
    share: bool = True


@dataclass(frozen=True)
class Row:
    """Neighbouring chains as one tree: of each, the first `shared` tokens are those of the chain before it.

    For the first chain, and at least for the others, those are the trunk's. `tokens` counts what is new in the row.
    """

    chains: tuple[Chain, ...]
    shared: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(len(chain.tokens) - shared for chain, shared in zip(self.chains, self.shared, strict=True))

    @property
    def seen_keys(self) -> int:
        """Over all new tokens, the tokens that each may see: those before it in its chain, and itself."""
        lengths = ((len(chain.tokens), shared) for chain, shared in zip(self.chains, self.shared, strict=True))
        return sum(pairs_within(length) - pairs_within(shared) for length, shared in lengths)


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together, after the same `trunk` (int64 [n], possibly empty)."""

    trunk: Tokens
    rows: tuple[Row, ...]

    @property
    def chains(self) -> list[Chain]:
        return [chain for row in self.rows for chain in row.chains]

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return max(row.tokens for row in self.rows)

    @property
    def is_tree(self) -> bool:
        """Whether a token may not see all tokens before it in its row."""
        return len(self.trunk) > 0 or any(len(row.chains) > 1 for row in self.rows)


def pairs_within(length: int) -> int:
    """Pairs of a token and one that it may see, in a sequence of `length` tokens."""
    return length * (length + 1) // 2


def plan_batches(chains: Sequence[Chain], limits: PlanLimits) -> list[Batch]:
    """Batches that hold each of the sorted `chains` once; those after the same trunk follow one another."""
    if not chains:
        return []
    if not limits.share:
        return list(_fill(np.empty(0, np.int64), [Row((chain,), (0,)) for chain in chains], limits))
    shared = shared_lengths(chains)
    costs = TrunkCosts(limits.row_tokens, limits.pass_tokens, limits.longest)
    batches: list[Batch] = []
    loose: list[Row] = []
    for trunk in choose_trunks(chains, shared, costs):
        rows = _cut_rows(chains, shared, trunk, limits)
        if trunk.length:
            batches += _fill(chains[trunk.start].tokens[: trunk.length], rows, limits)
        else:
            loose += rows
    return [*batches, *_fill(np.empty(0, np.int64), loose, limits)]


def _cut_rows(chains: Sequence[Chain], shared: Sequence[int], trunk: Trunk, limits: PlanLimits) -> list[Row]:
    """Rows as long as they may be. A cut repeats what the chains beside it share, so it is made where that is least."""
    rows: list[Row] = []
    begin = trunk.start
    while begin < trunk.stop:
        sizes = [len(chains[begin].tokens) - trunk.length]
        for place in range(begin + 1, trunk.stop):
            new = len(chains[place].tokens) - shared[place]
            if not _joins(chains[place], shared[place], trunk, sizes[-1] + new, limits):
                break
            sizes.append(sizes[-1] + new)
        end = begin + len(sizes)
        if end < trunk.stop:
            half = next(number for number, size in enumerate(sizes) if size >= sizes[-1] / 2)
            end = min(range(begin + half + 1, end + 1), key=lambda cut: (shared[cut], -cut))
        rows.append(Row(tuple(chains[begin:end]), (trunk.length, *shared[begin + 1 : end])))
        begin = end
    return rows


def _joins(chain: Chain, shared: int, trunk: Trunk, row_tokens: int, limits: PlanLimits) -> bool:
    length = len(chain.tokens) - trunk.length
    allowed = limits.row_tokens
    if shared - trunk.length >= length / 2:
        allowed = max(allowed, 2 * length)
    return row_tokens <= min(allowed, limits.longest)


def _fill(trunk: Tokens, rows: Sequence[Row], limits: PlanLimits) -> Iterator[Batch]:
    """Batches of rows of about equal length, the longest first."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: -row.tokens):
        if batch and _is_full(batch, row, limits):
            yield Batch(trunk, tuple(batch))
            batch = []
        batch.append(row)
    if batch:
        yield Batch(trunk, tuple(batch))


def _is_full(batch: Sequence[Row], row: Row, limits: PlanLimits) -> bool:
    """A batch that is not small any more is not padded for a much shorter row."""
    width = batch[0].tokens
    if (len(batch) + 1) * width > limits.token_budget:
        return True
    not_small = len(batch) * width >= limits.token_budget * _NOT_SMALL
    return not_small and width - row.tokens > width * _MOST_PADDING
