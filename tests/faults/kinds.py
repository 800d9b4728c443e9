"""The kinds of faults. Each is done to a run that is at work, or has ended; what it did is returned in words.

A fault draws all that it does from the dice that it is given.
"""

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from tests.faults.replaying import MANNERS
from tests.faults.world import PATIENCE_SECONDS, Command, Ended, World
from tests.support.disk_calls import FailingDisk

Fault = Callable[[World, Random], str]
STRANGER = 54321
"""A user id that no machine gives a name."""
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGABRT)
_DAMAGE = ("a bit", "its end", "all of it", "its place", "garbage", "a link", "a pipe")


class Unexplained(AssertionError):
    """A command ended with a traceback, or with a status that none may have."""


@dataclass(frozen=True)
class Kind:
    """`needs_root`: it mounts disks, or is somebody else."""

    name: str
    fault: Fault
    needs_root: bool = False


def explained(ended: Ended, *statuses: int) -> Ended:
    """The end of a command, which a user understands.

    Raises:
        Unexplained: they would not, or the status is another.
    """
    if not ended.is_explained or (statuses and ended.status not in statuses):
        raise Unexplained(f"status {ended.status}: {ended.stderr[-2000:]}")
    return ended


def moment(world: World, dice: Random) -> float:
    """An instant of a run, in seconds from its beginning. As many fall into its start as into its first stages."""
    return dice.uniform(0, world.run_seconds)


def killed(world: World, dice: Random) -> str:
    """The orchestrator alone is gone; its workers go on."""
    times = dice.randint(1, 3)
    for _ in range(times):
        command = world.start_run()
        time.sleep(moment(world, dice))
        command.signal(signal.SIGKILL)
        explained(command.wait(), 0, -signal.SIGKILL)
    return f"SIGKILL, {times} in a row"


def lost_power(world: World, dice: Random) -> str:
    """The orchestrator and all its workers are gone at once."""
    command = world.start_run()
    time.sleep(moment(world, dice))
    command.signal(signal.SIGKILL)
    for pid in world.workers():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    explained(command.wait(), 0, -signal.SIGKILL)
    return "orchestrator and workers, SIGKILL"


def stopped(world: World, dice: Random) -> str:
    number, again = dice.choice(_STOPS), dice.random() < 0.3
    command = world.start_run()
    time.sleep(moment(world, dice))
    command.signal(number)
    if again:
        time.sleep(dice.uniform(0, 0.1))
        command.signal(number)
    explained(command.wait(), 0, 130)
    return number.name + (" twice" if again else "")


def worker_ended(world: World, dice: Random) -> str:
    number = dice.choice(_ENDS)
    command = world.start_run()
    time.sleep(moment(world, dice))
    hit = 0
    while command.alive() and not hit:
        for pid in world.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                hit += 1
        time.sleep(0.005)
    explained(command.wait(), 0, 3)
    return f"{number.name} to {hit} process(es)"


def several(world: World, dice: Random) -> str:
    commands = []
    for _ in range(dice.choice((2, 4))):
        commands.append(world.start_run())
        time.sleep(dice.uniform(0, 0.05))
    doomed = [one for one in commands if dice.random() < 0.4]
    for one in doomed:
        time.sleep(moment(world, dice) / len(doomed))
        one.signal(signal.SIGKILL)
    for one in commands:
        explained(one.wait(), *((0, -signal.SIGKILL) if one in doomed else (0,)))
    return f"{len(commands)} at once, {len(doomed)} of them killed"


def without_manners(world: World, dice: Random) -> str:
    how = dice.choice(sorted(MANNERS))
    sixteenth = format(dice.randrange(16), "x")
    world.manners.write_text(f"{sixteenth} {how}\n", encoding="utf-8")
    world.manners.chmod(0o644)
    ended = explained(world.run(), 0, 3)
    world.manners.unlink()
    return f"a worker {how}" + (": no request of this run is its" if ended.status == 0 else "")


def damaged(world: World, dice: Random) -> str:
    """A file of a store whose run has ended, or was cut off. What is read then is right, or not there."""
    if dice.random() < 0.5:
        explained(world.run(), 0)
    else:
        killed(world, dice)
    every = [path for path in sorted(world.store.rglob("*")) if path.is_file() and not _is_no_data(world, path)]
    by_kind: dict[str, list[Path]] = {}
    for path in every:
        by_kind.setdefault("/".join((path.relative_to(world.store).parts[0], path.name)), []).append(path)
    if not by_kind:
        return "nothing: it had written no file yet"
    kind = dice.choice(sorted(by_kind))
    path, how = dice.choice(by_kind[kind]), dice.choice(_DAMAGE)
    damage(path, how, dice)
    world.damaged = "/".join(path.relative_to(world.store).parts[:2])
    world.must_not_show_other_figures()
    for command in ("status", "report", "clean"):
        explained(world.command(command, *(["-n"] if command == "clean" else ["last"])), 0, 2, 3)
    return f"{how} of {kind}"


def _is_no_data(world: World, path: Path) -> bool:
    return path.relative_to(world.store).parts[0] in ("locks", "environments")


def damage(path: Path, how: str, dice: Random) -> None:
    """Raises nothing for an empty file, which stays as it is where it has no bit to lose."""
    content = path.read_bytes()
    match how:
        case "a bit" if content:
            place = dice.randrange(len(content))
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << dice.randrange(8)]) + content[place + 1 :])
        case "its end":
            path.write_bytes(content[: dice.randrange(len(content) + 1)])
        case "all of it":
            path.write_bytes(b"")
        case "its place":
            path.unlink()
        case "garbage":
            path.write_bytes(dice.randbytes(max(1, len(content))))
        case "a link":
            path.unlink()
            path.symlink_to("/dev/null")
        case "a pipe":
            path.unlink()
            os.mkfifo(path)


def failing_calls(world: World, dice: Random) -> str:
    """From one of its calls to the disk on, all fail that such a disk refuses; or that one alone."""
    error = dice.choice((errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT))
    first = int(dice.paretovariate(0.35)) - 1 if dice.random() < 0.3 else dice.randrange(700)
    disk = FailingDisk(world.store, None, first=first, error=error)

    def begin() -> None:
        disk.watch().__enter__()

    world.within = begin
    explained(world.run(), 0, 2, 3)
    world.within = lambda: None
    return f"{errno.errorcode[error]} from call {first} on"


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", options, "none", str(folder))
    folder.chmod(0o1777)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def full_disk(world: World, dice: Random) -> str:
    """A disk of its own, too small; then as large as it has to be."""
    kibibytes = dice.randint(16, 1500)
    world.mounts.enter_context(_mounted(world.store.parent, f"size={kibibytes}k"))
    ended = explained(_on_a_small_disk(world), 0, 2, 3, 130)
    _mount("-o", "remount,size=1g", str(world.store.parent))
    return f"{kibibytes} KiB" + (": was enough" if ended.status == 0 else "")


def _on_a_small_disk(world: World) -> Ended:
    """A run that waits for room is interrupted, as somebody would who frees some."""
    command = world.start_run()
    patience = time.monotonic() + 8 * world.run_seconds + 2
    while command.alive() and time.monotonic() < patience:
        time.sleep(0.01)
    command.signal(signal.SIGINT)
    return command.wait()


def read_only(world: World, dice: Random) -> str:
    """While it is, all that only reads works. Under a run that is at work no disk becomes so, but calls may fail."""
    world.mounts.enter_context(_mounted(world.store.parent, "size=1g"))
    has_ended = dice.random() < 0.5
    if has_ended:
        explained(world.run(), 0)
    else:
        killed(world, dice)
    _end_all(world)
    _mount("-o", "remount,ro", str(world.store.parent))
    world.must_not_show_other_figures()
    for arguments in (("status",), ("report", "last", "-o", str(world.root / "report")), ("clean", "-n")):
        explained(world.command(*arguments), 0, 2, 3)
    explained(world.run(), 2)
    _mount("-o", "remount,rw", str(world.store.parent))
    return f"after a run that {'ended' if has_ended else 'was killed'}"


def _end_all(world: World) -> None:
    """No worker of a killed orchestrator is left that keeps a file open."""
    for pid in world.workers():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    patience = time.monotonic() + PATIENCE_SECONDS
    while world.workers() and time.monotonic() < patience:
        time.sleep(0.01)


def taken_away(world: World, dice: Random) -> str:
    """The whole store, or a part of it, under the run's feet; and back again, or gone for good."""
    part = dice.choice(("", "runs", "stages", "artifacts", "attempts", "locks"))
    comes_back = dice.random() < 0.5
    command = world.start_run()
    time.sleep(moment(world, dice))
    place, aside = world.store / part, world.root / "aside"
    there = place.exists()
    if there:
        place.rename(aside)
    ended = explained(command.wait(), 0, 2, 3)
    if there and comes_back:
        if place.exists():
            shutil.copytree(aside, place, dirs_exist_ok=True, symlinks=True)
        else:
            aside.rename(place)
    shutil.rmtree(aside, ignore_errors=True)
    what = part or "the store"
    return (
        f"{what}, {'for a while' if comes_back else 'for good'}"
        + ("" if there else ": not there yet")
        + (": it had ended" if ended.status == 0 else "")
    )


def other_disk(world: World, dice: Random) -> str:
    """A part of the store lies on another file system, by a link, from the start."""
    part = dice.choice(("artifacts", "stages", "attempts", "runs", "resume", "locks"))
    world.mounts.enter_context(_mounted(world.root / "other-disk", "size=1g"))
    world.store.mkdir()
    (world.store / part).symlink_to(world.root / "other-disk", target_is_directory=True)
    ended = explained(world.run(), 0, 2, 3)
    if ended.status != 0:
        (world.store / part).unlink()
    return f"{part}" + (": works" if ended.status == 0 else ": refused")


def clock_jumps(world: World, dice: Random) -> str:
    """What time of day it is, as the orchestrator sees it, from one of its looks on."""
    by = timedelta(hours=dice.choice((-1, 1)) * dice.choice((1, 25, 24 * 400)))
    after = dice.randrange(120)
    looks = 0
    real = time.time

    def jumped() -> timedelta:
        nonlocal looks
        looks += 1
        return by if looks > after else timedelta()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + jumped()

    def begin() -> None:
        mock.patch("time.time", lambda: real() + jumped().total_seconds()).start()
        mock.patch("orchestrator.store.records.datetime", Clock).start()

    world.within = begin
    explained(world.run(), 0)
    world.within = lambda: None
    assert datetime.now(UTC) > datetime(2020, 1, 1, tzinfo=UTC)
    return f"{by.total_seconds() / 3600:+.0f} h"


def few_open_files(world: World, dice: Random) -> str:
    import resource

    most = dice.randint(8, 60)

    def begin() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    world.within = begin
    ended = explained(world.run())
    if ended.status not in (0, 2, 3):
        raise Unexplained(f"status {ended.status}: {ended.stderr[-2000:]}")
    world.within = lambda: None
    return f"{most} at most" + (": was enough" if ended.status == 0 else "")


def strangers(world: World, dice: Random) -> str:
    """Who runs has no name on this machine, and somebody else uses the store meanwhile."""
    world.user = (STRANGER, STRANGER)
    command = world.start_run()
    time.sleep(moment(world, dice))
    guest = World(world.root, world.answers, (STRANGER + 1, STRANGER + 1), commands=1000, is_guest=True)
    others: list[Command] = [guest.start_run() if dice.random() < 0.5 else guest.start("status")]
    if dice.random() < 0.5:
        command.signal(signal.SIGKILL)
    explained(command.wait(), 0, -signal.SIGKILL)
    for one in others:
        explained(one.wait(), 0, 2, 3)
    return "one without a name, and another"


KINDS = (
    Kind("orchestrator killed", killed),
    Kind("power lost", lost_power),
    Kind("orchestrator stopped", stopped),
    Kind("worker ended by a signal", worker_ended),
    Kind("several orchestrators on one store", several),
    Kind("worker without manners", without_manners),
    Kind("file damaged", damaged),
    Kind("disk fails at a call", failing_calls),
    Kind("disk full", full_disk, needs_root=True),
    Kind("disk read-only", read_only, needs_root=True),
    Kind("store taken away", taken_away),
    Kind("part of the store on another disk", other_disk, needs_root=True),
    Kind("clock jumps", clock_jumps),
    Kind("few open files", few_open_files),
    Kind("users without a name", strangers, needs_root=True),
)
