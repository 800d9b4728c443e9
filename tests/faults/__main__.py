"""Inject faults into runs, and write what came of it: docs/reliability.md.

python -m tests.faults [--injections N] [--seed N] [--kind NAME ...] [--write]
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults.campaign import Campaign, kinds_here
from tests.faults.kinds import KINDS
from tests.faults.record import OUTCOMES, PAGE, append, page_with, read


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--injections", type=int, default=60, help="how many, over all kinds in turn (%(default)s)")
    add("--seed", type=int, default=0, help="the first one's; the next round of kinds has the next (%(default)s)")
    add("--kind", action="append", help="only kinds with this in their name; several times for several")
    add("--outcomes", type=Path, default=OUTCOMES, help="the file that each is added to (%(default)s)")
    add("--write", action="store_true", help="write the page from the file, and inject nothing")
    asked = parser.parse_args()
    if asked.write:
        PAGE.write_text(page_with(PAGE.read_text("utf-8"), read(asked.outcomes)), encoding="utf-8")
        return 0
    kinds = [one for one in kinds_here() if not asked.kind or any(part in one.name for part in asked.kind)]
    for one in KINDS:
        if one not in kinds_here():
            sys.stderr.write(f"not done: {one.name}: it mounts disks, or is somebody else, which only root may\n")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o755)
        campaign = Campaign(Path(folder) / "worlds")
        for number in range(asked.injections):
            done = campaign.inject(kinds[number % len(kinds)], asked.seed + number // len(kinds))
            append(done, asked.outcomes)
            wrong += bool(done.wrong)
            sys.stdout.write(f"{done.kind} {done.seed}: {done.fault}: {done.wrong or 'as it has to be'}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{asked.injections} injections, {wrong} of them with something wrong afterwards\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
