"""Frees what nothing refers to."""

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.contract import read_regular
from orchestrator.errors import StoreError
from orchestrator.host import files, locks
from orchestrator.host.owner import Owner
from orchestrator.store.history import all_runs
from orchestrator.store.journal import JOURNAL_NAME
from orchestrator.store.runs import MOST_RECORD_BYTES, RUN_NAME
from orchestrator.store.store import PROVENANCE_NAME, Store
from orchestrator.store.versioned import Unreadable


@dataclass(frozen=True)
class Removed:
    """`what` is a path within the store."""

    what: str
    size_bytes: int


@dataclass(frozen=True)
class Cleaned:
    """`unreadable` are runs and results that cannot be read; what they may refer to was kept."""

    removed: tuple[Removed, ...]
    unreadable: tuple[Unreadable, ...] = ()


def clean(store: Store, *, drop_run: str | None = None, also: Sequence[Path] = (), dry_run: bool = False) -> Cleaned:
    """Remove what is left of attempts, then stages that no run refers to, then artifacts that no stage refers to, and
    what was kept to spare a download.

    `drop_run` forgets a run first, one that cannot be read as well: a name, an unambiguous beginning, or `last`. `also`
    are paths in the store that are known to be unused. With `dry_run` nothing is removed.

    Raises:
        StoreError: another orchestrator uses the store, the run does not exist, or something cannot be removed.
    """
    dropped = None if drop_run is None else _dropped(store, drop_run)
    if not store.root.is_dir():
        return Cleaned(())
    with _alone(store, dry_run=dry_run):
        doomed, unreadable = _doomed(store, dropped)
        doomed += also
        if dry_run:
            return Cleaned(tuple(Removed(_within(store, path), files.size_bytes(path)) for path in doomed), unreadable)
        try:
            removed = tuple(Removed(_within(store, path), files.remove(path)) for path in doomed)
            for path in store.locks.iterdir():
                if path.name != "store":
                    path.unlink()
        except OSError as failure:
            raise StoreError(
                f"cleaning {store.root} stopped: {failure}", hint="clean as who owns the store"
            ) from failure
        return Cleaned(removed, unreadable)


def would_free(store: Store) -> int:
    """The bytes that `clean` would remove if everybody ended now, what is at work apart. Nothing is held meanwhile."""
    doomed = _doomed(store, None)[0]
    return sum(files.size_bytes(path) for path in doomed if path.parent != store.attempts or _is_abandoned(path))


@contextmanager
def _alone(store: Store, *, dry_run: bool) -> Iterator[None]:
    """Hold the store alone. Where nothing is to be removed and the store cannot be written, nobody else writes."""
    lock = store.locks / "store"
    if dry_run and not os.access(lock if lock.exists() else store.root, os.W_OK):
        yield
        return
    with locks.attempt(lock) as alone:
        if not alone:
            raise StoreError(f"{store.root} is in use by a running orchestrator", hint="clean when it has ended")
        yield


def _doomed(store: Store, dropped: Path | None) -> tuple[list[Path], tuple[Unreadable, ...]]:
    """What nothing refers to, in the order in which it goes, and what could not be read in finding out."""
    records, unreadable = all_runs(store)
    unreadable = tuple(one for one in unreadable if dropped is None or one.what != _within(store, dropped))
    keys = {
        state.key
        for record in records
        if record.run != (dropped and dropped.name)
        for state in record.stages.values()
        if state.key
    }
    for one in unreadable:
        keys |= _mentioned(store.root / one.what / RUN_NAME, store.stages)
        keys |= _named_in(store.root / one.what / JOURNAL_NAME, store.stages)
    digests, wholes, damaged = _read_of(store, keys)
    doomed = [] if dropped is None else [dropped]
    doomed += [
        *_inside(store.attempts),
        *(left for run in _inside(store.runs.folder) if run != dropped for left in _left(run)),
    ]
    doomed += [path for folder in (store.stages, store.failures) for path in _inside(folder) if path.name not in keys]
    doomed += [path for path in _inside(store.resumable) if path.name not in keys | wholes]
    doomed += [path for path in _inside(store.artifacts.folder) if path.name not in digests]
    doomed += [path for path in _inside(store.artifacts.blocks) if path.stem not in digests]
    doomed += [path for path in _inside(store.artifacts.passing) if path.name not in digests]
    doomed += _inside(store.wheels.folder)
    return doomed, (*unreadable, *damaged)


def _left(run: Path) -> list[Path]:
    """What killed orchestrators left of a run: parts of files, or a folder that nothing was written to yet."""
    there = _inside(run)
    parts = [path for path in there if path.name.startswith(".")]
    return [run] if len(parts) == len(there) else parts


def _dropped(store: Store, wanted: str) -> Path:
    name = store.runs.load(wanted).run if wanted == "last" else store.runs.name(wanted)
    return store.runs.folder / name


def _read_of(store: Store, keys: Collection[str | None]) -> tuple[set[str], set[str], list[Unreadable]]:
    """The artifacts that stages made or read, the evaluations of which they are slices, and what cannot be read."""
    digests: set[str] = set()
    wholes: set[str] = set()
    damaged = []
    for key in sorted(key for key in keys if key is not None):
        try:
            record = store.read(key)
        except Unreadable as unreadable:
            damaged.append(unreadable)
            digests |= _mentioned(store.stages / key / PROVENANCE_NAME, store.artifacts.folder)
            continue
        if record is not None:
            read = record.provenance.material.get("inputs", {})
            digests |= {str(digest) for digest in (record.provenance.artifact, *read.values()) if digest}
            wholes |= {one for one in (record.provenance.whole,) if one is not None}
    return digests, wholes, damaged


def _mentioned(document: Path, folder: Path) -> set[str]:
    """What in `folder` a document that cannot be read may refer to: all of it, where it is no JSON at all."""
    there = {path.name for path in _inside(folder)}
    try:
        content = read_regular(document, MOST_RECORD_BYTES)
        json.loads(content)
    except (OSError, ValueError, RecursionError):
        return there
    return {name for name in there if name.encode() in content}


def _named_in(journal: Path, folder: Path) -> set[str]:
    """What in `folder` the lines of a journal name; nothing where there is none."""
    try:
        content = read_regular(journal, MOST_RECORD_BYTES)
    except OSError:
        return set()
    return {path.name for path in _inside(folder) if path.name.encode() in content}


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _within(store: Store, path: Path) -> str:
    return path.relative_to(store.root).as_posix()


def sweep_attempts(store: Store) -> tuple[str, ...]:
    """Remove attempts whose orchestrator is dead, at the start of a run; returns their names.

    What they left to go on from is kept for the next attempt at the same stage. Files that one was writing go, too.
    """
    for folder in (store.runs.folder, store.artifacts.blocks):
        files.sweep_unfinished(folder)
    abandoned = [path for path in _inside(store.attempts) if _is_abandoned(path)]
    for path in abandoned:
        store.rescue(path)
        files.remove(path)
    return tuple(path.name for path in abandoned)


def _is_abandoned(attempt: Path) -> bool:
    if attempt.name.endswith(files.REMOVING):
        return True
    try:
        return Owner.parse(attempt.name.rpartition("@")[2]).is_dead()
    except ValueError:
        return False
