"""Frees what nothing refers to."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.host import files, locks
from orchestrator.host.owner import Owner
from orchestrator.store.store import Store


@dataclass(frozen=True)
class Removed:
    """`what` is a path within the store."""

    what: str
    size_bytes: int


def clean(store: Store, *, drop_run: str | None = None, dry_run: bool = False) -> tuple[Removed, ...]:
    """Remove what is left of attempts, then stages that no run refers to, then artifacts that no stage refers to.

    `drop_run` forgets a run first. With `dry_run` nothing is removed.

    Raises:
        StoreError: another orchestrator uses the store, or the run does not exist.
    """
    with locks.attempt(store.locks / "store") as alone:
        if not alone:
            raise StoreError(f"{store.root} is in use by a running orchestrator", hint="clean when it has ended")
        doomed = [store.runs / store.load_run(drop_run).run] if drop_run else []
        runs = [name for name in store.run_names() if store.runs / name not in doomed]
        keys = {state.key for name in runs for state in store.load_run(name).stages.values() if state.key}
        doomed += [*store.attempts.iterdir(), *store.runs.glob("*/.*.tmp")]
        doomed += [
            path
            for folder in (store.stages, store.failures, store.resumable)
            for path in folder.iterdir()
            if path.name not in keys
        ]
        kept = {key for key in keys if (store.stages / key).is_dir()}
        digests = {record.artifact.digest for key in kept if (record := store.find(key)) and record.artifact}
        doomed += [path for path in store.artifacts.iterdir() if path.name not in digests]
        removed = tuple(
            Removed(path.relative_to(store.root).as_posix(), files.size_bytes(path) if dry_run else files.remove(path))
            for path in doomed
        )
        for path in () if dry_run else store.locks.iterdir():
            if path.name != "store":
                path.unlink()
        return removed


def sweep_attempts(store: Store) -> tuple[str, ...]:
    """Remove attempts whose orchestrator is dead, at the start of a run; returns their names.

    What they left to go on from is kept for the next attempt at the same stage.
    """
    abandoned = [path for path in store.attempts.iterdir() if _is_abandoned(path)]
    for path in abandoned:
        store.rescue(path, path.name.partition("@")[0])
        files.remove(path)
    return tuple(path.name for path in abandoned)


def _is_abandoned(attempt: Path) -> bool:
    if attempt.name.endswith(files.REMOVING):
        return True
    try:
        return Owner.parse(attempt.name.rpartition("@")[2]).is_dead()
    except ValueError:
        return False
