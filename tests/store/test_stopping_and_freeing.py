"""Whatever of a store takes long can be stopped, is said beforehand, and frees what it says that it frees."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.contract import Descriptor
from orchestrator.errors import Interrupted
from orchestrator.host import locks
from orchestrator.stages import OUTPUT_NAME
from orchestrator.store import StageRecord, Store, verifying
from orchestrator.store.cleaning import clean
from orchestrator.store.described import BadArtifact
from orchestrator.store.verifying import Verifier
from tests.store.test_store_keeps_and_frees import KEY, OTHER_KEY, checkpoint_in, provenance, put, result_in, save_run


class Stop(Exception):
    """What a poll raises."""


class Polled:
    """Counts how often it is called, and stops the work at the call that it is told."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls = 0
        self._stop_at = stop_at

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self._stop_at:
            raise Stop


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def commit(store: Store, key: str, poll: Callable[[], None], cancel: threading.Event | None = None) -> StageRecord:
    with store.attempt(key) as folder:
        final = result_in(folder / OUTPUT_NAME, checkpoint_in(folder / OUTPUT_NAME))
        return store.commit(folder, final, provenance(key), cancel, poll)


def artifact(record: StageRecord) -> tuple[str, Descriptor]:
    assert record.artifact is not None
    return record.artifact.digest, record.artifact


def damage(store: Store, record: StageRecord) -> None:
    path = store.artifacts.path(artifact(record)[0]) / "model.safetensors"
    path.chmod(0o644)
    path.write_bytes(b"weightz")


def test_keeping_a_result_can_be_stopped_between_any_two_reads_of_its_artifact(store: Store) -> None:
    polled = Polled()
    commit(store, KEY, polled)
    assert polled.calls > 0
    with pytest.raises(Stop):
        commit(store, OTHER_KEY, Polled(1))
    with pytest.raises(Stop):
        commit(store, OTHER_KEY, Polled(polled.calls + 1))  # of what lies at its address already
    assert store.read(OTHER_KEY) is None


def test_verifying_and_discarding_can_be_stopped_between_any_two_reads(store: Store) -> None:
    digest, descriptor = artifact(put(store, KEY))
    with pytest.raises(Stop):
        store.artifacts.check(digest, descriptor, Polled(1))
    with pytest.raises(Stop):
        store.artifacts.discard(digest, descriptor, None, poll=Polled(1))
    assert store.artifacts.has(digest, descriptor)


def test_who_waits_for_a_reader_of_a_damaged_artifact_can_be_stopped(store: Store) -> None:
    record = put(store, KEY)
    damage(store, record)
    digest, descriptor = artifact(record)
    cancel = threading.Event()
    cancel.set()
    with store.artifacts.reading([digest], threading.Event()):
        with pytest.raises(Interrupted):
            store.artifacts.discard(digest, descriptor, cancel)
        with pytest.raises(Interrupted):
            commit(store, OTHER_KEY, lambda: None, cancel)
    with (
        locks.hold(store.locks / f"reading-{digest}"),
        pytest.raises(Interrupted),
        store.artifacts.reading([digest], cancel),
    ):
        pytest.fail("somebody discards it")


def test_artifacts_that_are_read_are_all_held_and_by_several_at_once(store: Store) -> None:
    """Each once, however often it is named: two inputs of a stage may be one artifact."""
    digests = [artifact(put(store, key, content))[0] for key, content in ((KEY, b"one"), (OTHER_KEY, b"two"))]
    with (
        store.artifacts.reading([*digests, *digests], threading.Event()),
        store.artifacts.reading(digests, threading.Event()),
    ):
        for digest in digests:
            with locks.attempt(store.locks / f"reading-{digest}") as alone:
                assert not alone
    for digest in digests:
        with locks.attempt(store.locks / f"reading-{digest}") as alone:
            assert alone


def test_an_artifact_that_is_whole_is_not_discarded(store: Store) -> None:
    digest, descriptor = artifact(put(store, KEY))
    store.artifacts.discard(digest, descriptor, None)
    store.artifacts.check(digest, descriptor)
    damage(store, put(store, KEY))
    store.artifacts.discard(digest, descriptor, None)
    with pytest.raises(BadArtifact):
        store.artifacts.check(digest, descriptor)
    assert not store.artifacts.path(digest).exists()


@pytest.mark.parametrize(("least_bytes", "said"), [(7, True), (8, False)])
def test_what_takes_long_to_hash_is_said_beforehand_with_its_size(
    store: Store, monkeypatch: pytest.MonkeyPatch, least_bytes: int, said: bool
) -> None:
    record = put(store, KEY, b"weights")
    monkeypatch.setattr(verifying, "_WORTH_A_NOTE_BYTES", least_bytes)
    notes: list[str] = []
    assert Verifier(store, threading.Event(), notes.append).is_whole(record)
    assert notes == (["s: 0.0 GB are held against their digests"] if said else [])


def test_cleaning_frees_what_a_dry_run_said_byte_by_byte(store: Store) -> None:
    kept, freed = put(store, KEY, b"kept"), put(store, OTHER_KEY, b"freed for good")
    save_run(store, "run", KEY)
    with store.attempt("c" * 64) as failed:
        (failed / "stderr.log").write_bytes(b"x" * 1000)
        store.keep_failure(failed, "c" * 64)
    said = clean(store, dry_run=True).removed
    held = {
        path.relative_to(store.root).as_posix(): sum(one.lstat().st_size for one in path.rglob("*") if one.is_file())
        for path in (
            store.stages / OTHER_KEY,
            store.failures / ("c" * 64),
            store.artifacts.path(artifact(freed)[0]),
        )
    }
    assert {one.what: one.size_bytes for one in said} == held
    assert clean(store).removed == said
    assert store.find(KEY) == kept
    assert clean(store).removed == ()
