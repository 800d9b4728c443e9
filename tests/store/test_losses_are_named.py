"""A stored result that is gone or not what it was is a failure of its stage that says so; everything else stays."""

import os
import shutil
from pathlib import Path

import pytest

from orchestrator.run import resources
from orchestrator.store import Failure, FailureKind, RunRecord, StageStatus, Store, Unreadable, outcomes
from orchestrator.store.history import open_run
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import Bench
from tests.support.stage_workers import keeping_worker

PRUNED, DENSE = "evaluate/tiny/sparsegpt-50%/arc_easy", "evaluate/tiny/dense/arc_easy"
AGAIN = "run its manifest again: what can be read is not measured again"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    """One run for all tests; each alters a copy of its store."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resources, "device_lock_path", lambda name: folder / f"device-{name}.lock")
        return folder / "store", Bench(folder / "store").run(FakeRuntime(keeping_worker))


@pytest.fixture
def store(finished: tuple[Path, RunRecord], tmp_path: Path) -> Store:
    shutil.copytree(finished[0], tmp_path / "store")
    return Store(tmp_path / "store")


def key_of(record: RunRecord, stage: str) -> str:
    key = record.stages[stage].key
    assert key is not None
    return key


def test_a_result_that_is_gone_is_lost_and_its_stage_has_no_key(store: Store, finished: tuple[Path, RunRecord]) -> None:
    record, key = finished[1], key_of(finished[1], PRUNED)
    shutil.rmtree(store.stages / key)
    opened = open_run(store, record.run)
    reason = f"the result is not in the store any more (the result of {PRUNED})"
    state = opened.record.stages[PRUNED]
    message = f"its result is lost: stages/{key} cannot be read: {reason}"
    assert (state.status, state.key) == (StageStatus.FAILED, None)
    assert state.failure == Failure(kind=FailureKind.LOST, message=message, hint=AGAIN)
    assert [(one.what, one.reason, one.hint) for one in opened.unreadable] == [(f"stages/{key}", reason, AGAIN)]
    assert opened.record.stages | {PRUNED: None} == record.stages | {PRUNED: None}


def test_a_result_whose_outcomes_are_damaged_is_refused_and_keeps_its_key(
    store: Store, finished: tuple[Path, RunRecord]
) -> None:
    record, key = finished[1], key_of(finished[1], PRUNED)
    with (store.stages / key / "out" / "items.jsonl.zst").open("ab") as file:
        file.write(b"more")
    opened = open_run(store, record.run)
    (refused,) = opened.unreadable
    state = opened.record.stages[PRUNED]
    assert (state.status, state.key) == (StageStatus.FAILED, key)
    reason = refused.reason.removesuffix(f" (the result of {PRUNED})")
    assert reason != refused.reason
    message = f"its result is not used: {reason}"
    assert state.failure == Failure(kind=FailureKind.REFUSED, message=message, hint=AGAIN)
    assert "items.jsonl.zst" in refused.reason


def test_outcomes_are_held_against_their_result_once_and_again_where_their_file_has_changed(
    store: Store, finished: tuple[Path, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, plain = [], outcomes.check
    monkeypatch.setattr(outcomes, "check", lambda result, kept: checked.append(result) or plain(result, kept))
    records = [store.read(key_of(finished[1], stage)) for stage in (DENSE, PRUNED)]
    assert None not in records
    for record in (*records, *records):
        store.outcomes.of(record)
    assert checked == [record.final.result for record in records]
    items = store.stages / records[1].provenance.key / "out" / "items.jsonl.zst"
    os.utime(items, ns=(5, 5))
    for record in (*records, *records):
        store.outcomes.of(record)
    assert checked[2:] == [records[1].final.result]


def test_what_an_opened_run_kept_at_hand_is_read_again_where_its_file_has_changed(
    store: Store, finished: tuple[Path, RunRecord]
) -> None:
    record = finished[1]
    keys = (key_of(record, PRUNED), key_of(record, DENSE))
    open_run(store, record.run)
    kept = {key: store.read(key) for key in keys}
    assert all(store.read(key) is kept[key] for key in keys)
    result = store.stages / keys[0] / "result.json"
    result.write_bytes(result.read_bytes() + b" ")
    with pytest.raises(Unreadable, match="another sha256"):
        store.read(keys[0])
    shutil.rmtree(store.stages / keys[1])
    assert store.read(keys[1]) is None
