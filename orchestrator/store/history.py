"""The runs of a store as a history: which record a command goes on with, and what can still be read of each."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.contract import Sha256
from orchestrator.host import locks
from orchestrator.store.records import Failure, FailureKind, RunFacts, RunRecord, StageRecord, StageState, StageStatus
from orchestrator.store.store import Store
from orchestrator.store.versioned import Refused, Unreadable


@dataclass(frozen=True)
class Taken:
    """A record that is this process's to write. `earlier` is the unfinished run that it goes on with, `why_new` says
    why it does not go on with the last run of the same manifest."""

    name: str
    earlier: RunRecord | None = None
    why_new: str = ""


@contextmanager
def take_run(store: Store, manifest: str, facts: RunFacts) -> Iterator[Taken]:
    """Go on with the unfinished run of the same facts that nobody is at work on, else begin a new one.

    `manifest` is the manifest's name. A run is named `<manifest>-<digest of what is asked>-<number>`. Nothing is
    written yet; the name is kept from others until the end.
    """
    series = f"{manifest}-{facts.manifest_digest[:8]}"
    with ExitStack() as held:
        with locks.hold(store.locks / "runs"):
            earlier = _of(store, series)
            taken = _unfinished(store, earlier, facts, held) or _new(store, series, earlier, facts, held)
        yield taken


def _unfinished(store: Store, earlier: list[RunRecord], facts: RunFacts, held: ExitStack) -> Taken | None:
    for record in reversed(earlier):
        if record.can_go_on(facts) and _is_free(store, record.run, held):
            now_free = store.runs.read(record.run)
            if now_free.can_go_on(facts):
                return Taken(record.run, earlier=now_free)
    return None


def _new(store: Store, series: str, earlier: list[RunRecord], facts: RunFacts, held: ExitStack) -> Taken:
    numbers = [int(name.removeprefix(f"{series}-")) for name in _names(store, series)]
    number = max(numbers, default=0) + 1
    while not _is_free(store, f"{series}-{number:03}", held):
        number += 1
    return Taken(f"{series}-{number:03}", why_new=_why_new(earlier[-1], facts) if earlier else "")


def _why_new(last: RunRecord, facts: RunFacts) -> str:
    if differing := facts.differing(last.facts):
        return f"{last.run} differs in {', '.join(differing)}"
    return f"{last.run} has ended" if last.ended is not None else f"{last.run} is at work"


def is_at_work(store: Store, name: str) -> bool:
    """Whether a process of this machine holds the run. It is not disturbed by the question, and nothing is created."""
    return locks.is_held(_lock(store, name))


def _is_free(store: Store, name: str, held: ExitStack) -> bool:
    return held.enter_context(locks.attempt(_lock(store, name)))


def _lock(store: Store, name: str) -> Path:
    return store.locks / f"run-{name}"


def _names(store: Store, series: str) -> list[str]:
    if not store.runs.folder.is_dir():
        return []
    found = (path.name for path in store.runs.folder.iterdir())
    return sorted(
        name for name in found if name.startswith(f"{series}-") and name.removeprefix(f"{series}-").isdecimal()
    )


def _of(store: Store, series: str) -> list[RunRecord]:
    """The records of a series that can be read, in the order in which they were begun."""
    found = {name: _readable(store, name) for name in _names(store, series)}
    return sorted((one for one in found.values() if isinstance(one, RunRecord)), key=lambda record: record.created)


def _readable(store: Store, name: str) -> RunRecord | Unreadable:
    try:
        return store.runs.read(name)
    except Unreadable as unreadable:
        return unreadable


def all_runs(store: Store) -> tuple[tuple[RunRecord, ...], tuple[Unreadable, ...]]:
    """Every run that can be read, in the order in which they were begun, and those that cannot."""
    found = [_readable(store, name) for name in store.runs.names()]
    records = sorted((one for one in found if isinstance(one, RunRecord)), key=lambda record: record.created)
    return tuple(records), tuple(one for one in found if isinstance(one, Unreadable))


def keys_of_others(store: Store, run: str) -> set[Sha256]:
    """The keys of the results that runs other than this one refer to, as far as these can be read."""
    records = (one for one in all_runs(store)[0] if one.run != run)
    return {state.key for record in records for state in record.stages.values() if state.key is not None}


@dataclass(frozen=True)
class OpenedRun:
    """A run, as far as it can be read now: a stage whose result is lost or refused has failed in `record`, with why.

    `unreadable` is all that was passed over: such results, figures of others, and, where the last run was asked for,
    runs.
    """

    record: RunRecord
    unreadable: tuple[Unreadable, ...]


def open_run(store: Store, wanted: str) -> OpenedRun:
    """A run by its name, an unambiguous beginning of it, or `last`. Raises as `Store.load_run` does."""
    records, passed_over = all_runs(store) if wanted == "last" else ((), ())
    last = max(records, key=lambda record: record.updated, default=None)
    opened = as_it_is(store, last or store.runs.load(wanted))
    imported = store.imported.unreadable(opened.record.run)
    return OpenedRun(opened.record, (*passed_over, *opened.unreadable, *imported))


def as_it_is(store: Store, record: RunRecord) -> OpenedRun:
    """A run with what is stored of it now, which is kept at hand for who reads it next."""
    states = dict(record.stages)
    results: dict[str, StageRecord] = {}
    unreadable: list[Unreadable] = []
    finished = {name: state.key for name, state in states.items() if state.key is not None and state.has_result}
    for (name, key), read in zip(finished.items(), store.read_to_keep(finished.values()), strict=True):
        try:
            results[name] = _result(store, f"{store.stages.name}/{key}", read)
        except Unreadable as loss:
            states[name], named = _without_result(name, states[name], loss)
            unreadable.append(named)
    for name, refused in store.outcomes.contradicting_each_other(results).items():
        states[name], named = _without_result(name, states[name], refused)
        unreadable.append(named)
    return OpenedRun(record.model_copy(update={"stages": states}), tuple(unreadable))


def _result(store: Store, what: str, stored: StageRecord | Unreadable | None) -> StageRecord:
    """A stored result that its parts give. Raises `Unreadable`, and `Refused` where they do not."""
    if stored is None:
        raise Unreadable(what, "the result is not in the store any more")
    if isinstance(stored, Unreadable):
        raise stored
    store.outcomes.of(stored)
    return stored


def _without_result(name: str, state: StageState, loss: Unreadable) -> tuple[StageState, Unreadable]:
    """The stage as one that failed, and the loss with the stage's name."""
    named = type(loss)(loss.what, f"{loss.reason} (the result of {name})")
    if isinstance(loss, Refused):
        failure = Failure(kind=FailureKind.REFUSED, message=f"its result is not used: {loss.reason}", hint=loss.hint)
        return state.reached(StageStatus.FAILED, failure=failure), named
    failure = Failure(kind=FailureKind.LOST, message=f"its result is lost: {named.message}", hint=loss.hint)
    return state.reached(StageStatus.FAILED, key=None, failure=failure), named
