"""Writes the tables of docs/mutants.md from what is kept of the last campaign: `python -m tests.seeded_faults.page`."""

import re
from collections.abc import Iterable
from pathlib import Path

from tests.seeded_faults.areas import areas
from tests.seeded_faults.record import OUTCOMES, Campaign, Share, explained, read

PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"
WRITTEN = re.compile(r"(?<=<!-- campaign -->\n).*(?=<!-- end of campaign -->)", re.DOTALL)


def page(outcomes: Path = OUTCOMES) -> str:
    kept = [read(file) for one in areas() if (file := outcomes / f"{one.name}.jsonl").exists()]
    lines = [*_table(kept), ""] if kept else []
    written = "\n".join([*lines, *_not_measured(kept), *_left(kept)])
    return WRITTEN.sub(lambda _: written, PAGE.read_text("utf-8"))


def _table(kept: list[Campaign]) -> Iterable[str]:
    equivalent, _ = explained()
    yield "| area | faults there | drawn (seed) | change nothing | noticed when drawn | noticed now | tests |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for one in kept:
        tally = one.tally(equivalent)
        yield (
            f"| {one.area} | {one.faults} | {len(one.tried)} ({one.seed}) | {tally.equivalent} "
            f"| {_with_interval(tally.when_drawn)} | {_with_interval(tally.now)} | {one.tests} |"
        )


def _not_measured(kept: list[Campaign]) -> Iterable[str]:
    """The areas of which nothing is known."""
    known = {one.area for one in kept}
    if lacking := [one.name for one in areas() if one.name not in known]:
        yield f"Not measured: {', '.join(lacking)}.\n"


def _with_interval(share: Share) -> str:
    low, high = share.interval
    return f"{share.count}/{share.of}: {share.value:.1%} ({low:.1%} to {high:.1%})"


def _left(kept: list[Campaign]) -> Iterable[str]:
    """Each fault that is not noticed: what it changes, and why that stays."""
    equivalent, unnoticed = explained()
    for one in kept:
        for fault in one.tried:
            if fault.noticed:
                continue
            if fault.name not in equivalent | unnoticed:
                raise SystemExit(f"explained.toml says nothing of {fault.name}:\n{fault.difference}")
            why = f"*Changes nothing:* {equivalent[fault.name]}" if fault.name in equivalent else unnoticed[fault.name]
            yield f"- `{fault.name}`: {why}\n\n  ```diff"
            yield from (f"  {line}" for line in fault.difference.splitlines())
            yield "  ```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
