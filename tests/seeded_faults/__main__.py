"""Seed small faults, one at a time, in a copy of the project, and say which no test notices: docs/mutants.md.

python -m tests.seeded_faults [AREA ...] [--sample N] [--seed N] [--minutes N] [--again [--tests PATH ...]]
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from tests.seeded_faults.areas import Area, areas
from tests.seeded_faults.record import OUTCOMES, Campaign, Share, Tried, read, write
from tests.seeded_faults.seeding import Fault, Source

ROOT = Path(__file__).parents[2]
MARKERS = "not docker and not network and not slow and not gpu and not browser"


def main() -> None:
    every = areas()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("areas", nargs="*", metavar="AREA", help=f"some of {', '.join(one.name for one in every)}; all by default")
    add("--sample", type=int, default=60, help="faults of an area at most (%(default)s)")
    add("--seed", type=int, default=0, help="of the draw (%(default)s)")
    add("--seconds", type=float, default=10, help="of processor time for one fault's tests at most (%(default)s)")
    add("--minutes", type=float, default=math.inf, help="after which no further fault of an area is tried")
    add("--again", action="store_true", help="only those that the last campaign left unnoticed, with today's tests")
    add("--tests", nargs="+", metavar="PATH", help="with --again: these, in place of all that guard the area")
    add("--outcomes", type=Path, default=OUTCOMES, help="the folder of what came out (%(default)s)")
    asked = parser.parse_args()
    if asked.tests and not asked.again:
        parser.error("--tests is of --again alone: a share is that of all tests of an area")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as with Ctrl-C, the tests end and the copy goes
    if unknown := set(asked.areas) - {one.name for one in every}:
        parser.error(f"no area is named {', '.join(sorted(unknown))}")
    for area in every:
        if asked.areas and area.name not in asked.areas:
            continue
        with tempfile.TemporaryDirectory(prefix="seeded-faults-") as folder:
            found = _once_more(area, Path(folder), asked) if asked.again else _drawn_anew(area, Path(folder), asked)
        write(found, asked.outcomes)
        sys.stdout.writelines(_said(found))
        sys.stdout.flush()


def _drawn_anew(area: Area, copy: Path, asked: argparse.Namespace) -> Campaign:
    sources = _sources(area, copy)
    every = [(source, index) for source in sources for index in range(len(source))]
    # In the order of the draw, so that a campaign that is cut short is a sample, too.
    random.Random(asked.seed).shuffle(every)
    chosen = every[: asked.sample]
    seeded = _seeded({source: [index for of, index in chosen if of is source] for source, _ in chosen})
    first, outcomes = _run(area, copy, asked, [seeded[one] for one in chosen])
    tried = [
        Tried(fault.name, outcome, fault.difference)
        for fault, outcome in zip((seeded[one] for one in chosen), outcomes, strict=False)
    ]
    return Campaign(area.name, asked.seed, len(every), first["tests"], asked.seconds, first["unusable"], tried)


def _once_more(area: Area, copy: Path, asked: argparse.Namespace) -> Campaign:
    before = read(asked.outcomes / f"{area.name}.jsonl")
    left = {one.name: one.difference for one in before.tried if not one.noticed}
    holding = {source: range(len(source)) for source in _sources(area, copy) if any(map(source.may_hold, left))}
    # All faults of a file at once, since names of a few would be counted otherwise.
    found = [one for one in _seeded(holding).values() if left.get(one.name) == one.difference]
    if gone := left.keys() - {one.name for one in found}:
        raise SystemExit(f"{area.name}: the code has changed since these were seeded, draw anew: {sorted(gone)}")
    if not found:
        return before
    _, outcomes = _run(area, copy, asked, found)
    return before.again({fault.name: outcome for fault, outcome in zip(found, outcomes, strict=False)})


def _sources(area: Area, copy: Path) -> list[Source]:
    _copy_project(copy)
    return [Source(file, copy) for file in sorted({file for pattern in area.files for file in copy.glob(pattern)})]


def _copy_project(copy: Path) -> None:
    """All that a checkout has and nothing that git ignores; no file of the checkout itself is ever written to."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)


def _seeded(chosen: dict[Source, Collection[int]]) -> dict[tuple[Source, int], Fault]:
    made = {}
    for source, indices in chosen.items():
        ordered = sorted(indices)
        made |= {(source, index): fault for index, fault in zip(ordered, source.seed(ordered), strict=True)}
    return made


def _run(area: Area, copy: Path, asked: argparse.Namespace, faults: list[Fault]) -> tuple[dict[str, object], list[str]]:
    """What the tests say without a fault, and what comes of each."""
    names, outcomes = copy / "faults.json", copy / "outcomes.jsonl"
    names.write_text(json.dumps([(fault.name, fault.switch) for fault in faults]), "utf-8")
    told = {"FAULTS": str(names), "OUTCOMES": str(outcomes), "SECONDS_EACH": str(asked.seconds)}
    told["UNTIL"] = str(time.time() + 60 * asked.minutes)
    command = [sys.executable, "-m", "pytest", "-q", "-m", MARKERS, "-p", "no:xdist", "-p", "no:cacheprovider"]
    command += ["-p", "tests.seeded_faults.plugin", "--hypothesis-seed=0", f"--basetemp={copy / 'pytest'}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | told
    status = subprocess.run([*command, *(asked.tests or area.tests)], cwd=copy, env=environment, check=False).returncode
    if not outcomes.exists():
        raise SystemExit(f"{area.name}: the tests could not be run (exit status {status})")
    first, *tried = [json.loads(line) for line in outcomes.read_text("utf-8").splitlines()]
    if not tried:
        raise SystemExit(f"{area.name}: there was no time for a fault beside the tests themselves")
    return first, [one["outcome"] for one in tried]


def _said(found: Campaign) -> Iterable[str]:
    """What came out, for people: each fault that no test notices, and how many are."""
    for test in found.unusable:
        yield f"not used, since it does not pass in the copy: {test}\n"
    for one in found.tried:
        if not one.noticed:
            yield f"\n{one.since or one.outcome}: {one.name}\n{one.difference}\n"
    share = Share(sum(one.noticed for one in found.tried), len(found.tried))
    low, high = share.interval
    yield f"\n{found.area}: {share.count} of {share.of} noticed, {share.value:.1%} ({low:.1%} to {high:.1%}); "
    yield f"{found.faults} faults could be seeded; {found.tests} tests\n"


if __name__ == "__main__":
    main()
