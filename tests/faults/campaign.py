"""Injections of faults, each into a world of its own; what is held against the run that nothing disturbed."""

import os
import shutil
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.faults.kinds import KINDS, Kind, Unexplained, explained
from tests.faults.record import Injection
from tests.faults.world import World, record_answers

TRIES = 3
"""How often a run may have to be asked for again until it is complete."""


class Campaign:
    """`folder` is new, on a disk with room for a store of some megabytes, and lies where every user can enter."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        self._answers = folder / "answers"
        record_answers(self._answers, folder)
        with World(folder / "undisturbed", self._answers) as world:
            begin = time.monotonic()
            explained(world.run(), 0)
            self._seconds = time.monotonic() - begin
            self.figures = world.figures()
            if left := world.left_over():
                raise AssertionError(f"a run that nothing disturbs leaves {left}")

    def inject(self, kind: Kind, seed: int) -> Injection:
        """One fault, and what is left of it when the run has been asked for again."""
        dice = Random(f"{kind.name}/{seed}")
        world = World(self._folder / f"world-{os.getpid()}-{seed}", self._answers)
        world.run_seconds, world.undisturbed = self._seconds, self.figures
        with world:
            fault = "not done"
            try:
                fault = kind.fault(world, dice)
                wrong = "; ".join(self._wrong_afterwards(world))
            except (Unexplained, AssertionError, TimeoutError, OSError) as found:
                wrong = "".join(traceback.format_exception_only(found)).strip()
        return Injection(kind.name, seed, fault, wrong)

    def _wrong_afterwards(self, world: World) -> Iterator[str]:
        for _ in range(TRIES):
            ended = explained(world.run(), 0, 2, 3)
            if ended.status == 0:
                break
        else:
            yield f"{TRIES} runs did not complete it: {ended.stderr[-1500:]}"
            return
        if world.figures() != self.figures:
            yield "the resumed run has other figures"
        for line in explained(world.command("store", "verify"), 0, 3).stdout.splitlines():
            # A new record stands beside one that cannot be read, and an artifact that nothing reads is not made again.
            is_kept = world.damaged.startswith(("runs/", "artifacts/")) and line.startswith(f"damaged: {world.damaged}")
            if line.startswith("damaged: ") and not is_kept:
                yield line
        if left := world.left_over():
            yield f"left over: {', '.join(left)}"


def kinds_here() -> tuple[Kind, ...]:
    """Those that this user can do."""
    can_mount = os.geteuid() == 0 and shutil.which("mount") is not None
    return tuple(kind for kind in KINDS if can_mount or not kind.needs_root)
