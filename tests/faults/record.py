"""What came of each injection, kept line by line, and the table of it."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.kinds import KINDS

ROOT = Path(__file__).parents[2]
OUTCOMES = Path(__file__).parent / "outcomes.jsonl"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- outcomes -->", "<!-- end of outcomes -->"


@dataclass(frozen=True)
class Injection:
    """`fault`: what was done. `wrong`: what then was not as it has to be; empty where all was."""

    kind: str
    seed: int
    fault: str
    wrong: str = ""


def append(done: Injection, path: Path) -> None:
    """Each as soon as it is done, so that a campaign that is cut short is one, too."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(done), ensure_ascii=False) + "\n")


def read(path: Path) -> list[Injection]:
    return [Injection(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def table(done: Iterable[Injection]) -> str:
    """A row a kind, with the number of injections and of those after which something was wrong; and what that was."""
    every = list(done)
    all_of, wrong = Counter(one.kind for one in every), Counter(one.kind for one in every if one.wrong)
    lines = ["| fault | injections | wrong afterwards |", "| --- | --- | --- |"]
    lines += [f"| {kind.name} | {all_of[kind.name]} | {wrong[kind.name]} |" for kind in KINDS]
    lines.append(f"| all | {len(every)} | {wrong.total()} |")
    lines += ["", *(f"- {one.kind}, seed {one.seed}: {one.fault}: {one.wrong}" for one in every if one.wrong)]
    return "\n".join(lines).rstrip()


def page_with(text: str, done: Iterable[Injection]) -> str:
    """The page with the table between its two marks."""
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n{table(done)}\n{END}{after}"
