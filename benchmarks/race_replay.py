"""Writes the table of docs/racing.md: races replayed on all outcomes of the reference run, by many orders of items.

python benchmarks/race_replay.py [--orders 0:500] [--store DIR]

Without a store, `benchmarks/h200/reference.tar.zst` is unpacked into a temporary folder. It takes some minutes
of one core for 500 orders. The limits and weights are those of `ASKED`; costs are the checkpoints' sizes and the
seconds to compress.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.contract import CompressResult
from orchestrator.artifact.contents import STORE_FOLDER
from orchestrator.artifact.unpacked import unpacked
from orchestrator.decide.accuracy import losses
from orchestrator.decide.candidates import Amount, Candidate
from orchestrator.decide.deciding import decide
from orchestrator.decide.foreseeing import NOTHING, Field, Moments, field_of
from orchestrator.decide.racing import Race, RaceTask
from orchestrator.evidence.items import items_of
from orchestrator.evidence.reading import Evidence, read_evidence
from orchestrator.evidence.resampling import Resampling
from orchestrator.evidence.value import DENSE, Variant
from orchestrator.figures.metrics import Floats
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import shipped_images
from orchestrator.manifest.deciding import DecideEntry, Quantity
from orchestrator.store import Store, history
from orchestrator.tracks import Track

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "h200" / "reference.tar.zst"
PAGE = ROOT / "docs" / "racing.md"
TABLE = re.compile(r"(?<=<!-- replay -->\n).*(?=<!-- end of replay -->)", re.DOTALL)
MODEL = "smollm2-135m"
RESAMPLES = 2_000
SMALL = {Quantity.LOSS: 1.0, Quantity.DISK: 1.0}
ACCURATE = {Quantity.LOSS: 30.0, Quantity.DISK: 1.0}
ASKED = {
    "loss 1 %": DecideEntry(max_loss="1%", prefer=SMALL),
    "loss 2 %": DecideEntry(max_loss="2%", prefer=SMALL),
    "loss 3 %": DecideEntry(max_loss="3%", prefer=SMALL),
    "loss 4 %": DecideEntry(max_loss="4%", prefer=SMALL),
    "loss 5 %": DecideEntry(max_loss="5%", prefer=SMALL),
    "loss 10 %": DecideEntry(max_loss="10%", prefer=SMALL),
    "loss 2 %, disk 150 MB": DecideEntry(max_loss="2%", max_disk="150MB", prefer=SMALL),
    "loss 5 %, disk 150 MB, 10 s to compress": DecideEntry(
        max_loss="5%", max_disk="150MB", max_compress_time="10s", prefer=SMALL
    ),
    "loss 5 %, accuracy preferred 30 to 1": DecideEntry(max_loss="5%", prefer=ACCURATE),
    "loss 20 %, accuracy preferred 30 to 1": DecideEntry(max_loss="20%", prefer=ACCURATE),
}
"""By what the rows are called. They were written down before any was replayed."""


@dataclass(frozen=True)
class FullRun:
    """`outcomes` [items, variants] of each task, in the order of the variants, dense first."""

    variants: tuple[Variant, ...]
    tasks: tuple[RaceTask, ...]
    outcomes: Mapping[str, Floats]
    costs: tuple[Candidate, ...]
    with_losses: tuple[Candidate, ...]

    @property
    def evaluations(self) -> int:
        return sum(task.items for task in self.tasks) * len(self.variants)


def full_run(store: Path) -> FullRun:
    opened = Store(store)
    record = history.open_run(opened, "last").record
    evidence = read_evidence(record, opened, ImageCatalog(shipped_images()), Resampling(resamples=RESAMPLES))
    if evidence.draws is None:
        raise SystemExit("the run was read without draws")
    found = losses(evidence, evidence.draws, MODEL)
    costs = tuple(_costs(evidence, variant) for variant in evidence.variants)
    tasks, outcomes = [], {}
    for place in next(one for one in evidence.expectations if one.track is Track.PERFORMANCE).places:
        if (dense := evidence.values.get(place, DENSE)) is None or dense.unit != "fraction":
            continue
        columns = [
            items_of(evidence.outcomes[value.source], value.metric).values
            for variant in evidence.variants
            if (value := evidence.values.get(place, variant)) is not None
        ]
        outcomes[place.name] = np.stack(columns, axis=1)
        if len(columns) != len(evidence.variants) or np.isnan(outcomes[place.name]).any():
            raise SystemExit(f"{place.name} lacks outcomes; a replay needs all of all variants")
        tasks.append(RaceTask(place.name, len(columns[0]), evidence.outcomes[dense.source].guessing))
    with_losses = tuple(
        Candidate(one.variant, None, {**one.amounts, Quantity.LOSS: found.of[one.variant]}) for one in costs
    )
    return FullRun(evidence.variants, tuple(tasks), outcomes, costs, with_losses)


def _costs(evidence: Evidence, variant: Variant) -> Candidate:
    """The size of the checkpoint that was made, counted, and the seconds to make it, measured once."""
    stage = f"compress/{MODEL}/{variant.label.replace(' ', '-')}" if not variant.is_dense else f"fetch/{MODEL}"
    result = evidence.results[stage].final.result
    disk = float(sum(file.size_bytes for file in result.artifact.files.values()))
    time = Amount(0.0, np.zeros(RESAMPLES), exact=True)
    if isinstance(result, CompressResult):
        time = Amount(result.cost.compress_seconds, None, "one round")
    return Candidate(
        variant, None, {Quantity.DISK: Amount(disk, np.full(RESAMPLES, disk), exact=True), Quantity.TIME: time}
    )


class Shuffled:
    """The outcomes in one order of each task's items."""

    def __init__(self, run: FullRun, generator: np.random.Generator) -> None:
        self._outcomes = {name: found[generator.permutation(len(found))] for name, found in run.outcomes.items()}
        self._all: dict[tuple[str, int], Moments] = {}

    def of(self, task: str, items: int, columns: Sequence[int]) -> Moments:
        of = len(self._outcomes[task])
        if len(columns) == 1:
            return Moments.over(self._outcomes[task][:items, columns], of)
        if (task, items) not in self._all:
            self._all[task, items] = Moments.over(self._outcomes[task][:items], of)
        return self._all[task, items].columns(columns)


@dataclass(frozen=True)
class Replayed:
    answer: int
    evaluations: int
    looks: int
    left_out: frozenset[str]


def replay(run: FullRun, field: Field, order: Shuffled, seed: int) -> Replayed:
    race = Race(field, run.tasks, seed=seed)
    scored: dict[tuple[str, Variant], int] = {}
    while (wanted := race.wanted()) is not None:
        columns = [run.variants.index(one) for one in wanted.variants]
        race.look({name: order.of(name, items, columns) for name, items in wanted.items.items()})
        for name, items in wanted.items.items():
            for one in wanted.variants:
                scored[name, one] = max(items, scored.get((name, one), 0))
    counted = frozenset(task.name for task in run.tasks) - set(race.counted)
    return Replayed(race.answer, sum(scored.values()), len(race.looks), counted)


@dataclass(frozen=True)
class Row:
    """One set of limits over all orders."""

    name: str
    answer: str
    alike: tuple[str, ...]
    same: float
    in_group: float
    spent: Floats

    @cached_property
    def cells(self) -> tuple[str, ...]:
        middle, most = np.median(self.spent), np.quantile(self.spent, 0.95)
        return (
            self.name,
            self.answer,
            ", ".join(self.alike) or "none",
            f"{self.same:.1%}",
            f"{self.in_group:.1%}",
            f"{self.spent.mean():.1%}",
            f"{middle:.1%}",
            f"{most:.1%}",
        )


def rows(run: FullRun, orders: Iterable[int]) -> list[Row]:
    fields = {name: field_of(run.costs, asked.limits, asked.prefer, RESAMPLES) for name, asked in ASKED.items()}
    found: dict[str, list[Replayed]] = {name: [] for name in ASKED}
    for number in orders:
        order = Shuffled(run, np.random.default_rng([7, number]))
        for name, field in fields.items():
            found[name].append(replay(run, field, order, number))
    return [_row(run, name, asked, found[name]) for name, asked in ASKED.items()]


def _row(run: FullRun, name: str, asked: DecideEntry, found: Sequence[Replayed]) -> Row:
    full = decide(run.with_losses, asked.limits, asked.prefer, RESAMPLES)
    recommended = NOTHING if full.recommended is None else full.recommended
    group = {recommended, *full.alike}
    if recommended == NOTHING or run.variants[recommended].is_dense:
        group = {recommended}
    label = "nothing" if recommended == NOTHING else run.variants[recommended].label
    return Row(
        name,
        label,
        tuple(run.variants[one].label for one in full.alike),
        same=float(np.mean([one.answer == recommended for one in found])),
        in_group=float(np.mean([one.answer in group for one in found])),
        spent=np.array([one.evaluations / run.evaluations for one in found]),
    )


def table(found: Sequence[Row]) -> str:
    heads = (
        "limits",
        "full run",
        "alike there",
        "same variant",
        "same or alike",
        "evaluations, mean",
        "median",
        "95 of 100 below",
    )
    lines = [heads, ("---",) * len(heads), *(row.cells for row in found)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _range(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--orders", type=_range, nargs="+", default=[range(500)], help="seeds of the orders: 0:61 250:311"
    )
    parser.add_argument("--store", type=Path, help="the reference run's results, unpacked")
    parser.add_argument("--print", action="store_true", help="print the table and leave the page as it is")
    arguments = parser.parse_args()
    if arguments.store is not None:
        run = full_run(arguments.store)
    else:
        with unpacked(RESULTS) as content:
            run = full_run(content.folder / STORE_FOLDER)
    written = table(rows(run, chain(*arguments.orders)))
    if arguments.print:
        print(written)
    else:
        PAGE.write_text(TABLE.sub(written, PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
