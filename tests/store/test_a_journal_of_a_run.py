"""While a run is at work its record is what was written as a whole and what its journal adds, however that was cut."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.contract import Operation
from orchestrator.errors import HostFault
from orchestrator.store import Failure, FailureKind, RunRecord, StageState, StageStatus, Store
from orchestrator.store.cleaning import clean
from orchestrator.store.history import all_runs
from orchestrator.store.journal import JOURNAL_NAME
from orchestrator.store.records import RunFacts
from orchestrator.store.runs import RUN_NAME, Runs
from orchestrator.store.versioned import Unreadable, sealed

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PLANNED = StageState(operation=Operation.FETCH, image="fetch", subject=None, parameters={"of": "it"})
KEY = "a" * 64
DONE = PLANNED.reached(StageStatus.DONE, key=KEY, wall_seconds=2.5)
FAILED = PLANNED.reached(StageStatus.FAILED, failure=Failure(kind=FailureKind.CRASHED, message="it „fell“"))
RUNNING = PLANNED.reached(StageStatus.RUNNING, key=KEY, started=NOON)


def record(**stages: StageState) -> RunRecord:
    return RunRecord(
        run="run-1",
        facts=RunFacts(manifest_digest="0" * 64, runtime="fake", device_model="some"),
        manifest={},
        decisions=("device: asked for",),
        stages=stages,
        created=NOON,
        updated=NOON,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.make()
    return made


@pytest.fixture
def runs(store: Store) -> Runs:
    """With a run that noted three changes, and was killed then."""
    with store.runs.journal(record(a=PLANNED, b=PLANNED)) as note:
        note("a", RUNNING)
        note("a", DONE, ["it was damaged"])
        note("b", FAILED, ["it was damaged"])
    return store.runs


def journal(runs: Runs) -> Path:
    return runs.folder / "run-1" / JOURNAL_NAME


def test_a_record_is_read_with_what_was_noted_since(runs: Runs) -> None:
    read = runs.read("run-1")
    assert read.stages == {"a": DONE.reached(DONE.status, started=None), "b": FAILED}
    assert read.decisions == ("device: asked for", "it was damaged")
    assert read.updated > NOON
    assert read.manifest_document == {}


def test_a_journal_is_as_readable_and_as_little_executable_as_the_record(runs: Runs) -> None:
    assert journal(runs).stat().st_mode == journal(runs).with_name(RUN_NAME).stat().st_mode


def test_a_system_that_takes_a_part_of_a_line_at_a_time_gets_all_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:100]))
    with store.runs.journal(record(a=PLANNED, b=PLANNED)) as note:
        note("a", DONE)
        note("b", FAILED)
    read = store.runs.read("run-1")
    assert (read.stages["a"].status, read.stages["b"]) == (StageStatus.DONE, FAILED)


def test_a_change_costs_the_same_in_a_large_run(store: Store) -> None:
    sizes = []
    for count in (10, 1000):
        states = {f"s{number}": PLANNED for number in range(count)}
        with store.runs.journal(record(**states)) as note:
            before = journal(store.runs).stat().st_size
            note("s1", DONE)
            sizes.append(journal(store.runs).stat().st_size - before)
    assert sizes[0] == sizes[1] < 500


def test_whatever_a_kill_leaves_of_the_journal_is_a_state_that_the_run_was_in(runs: Runs) -> None:
    content = journal(runs).read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    expected = [(PLANNED, PLANNED), (RUNNING, PLANNED), (DONE.reached(DONE.status), PLANNED), (DONE, FAILED)]
    for length in range(len(content) + 1):
        journal(runs).write_bytes(content[:length])
        found = runs.read("run-1").stages
        whole = max(0, sum(end <= length for end in ends) - 1)
        assert (found["a"].status, found["b"].status) == tuple(one.status for one in expected[whole]), length


def test_what_lies_behind_a_torn_line_makes_the_record_unreadable_and_keeps_what_it_names(
    store: Store, runs: Runs
) -> None:
    lines = journal(runs).read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"2.5", b"3.5")
    journal(runs).write_bytes(b"\n".join(lines))
    with pytest.raises(Unreadable, match="line 3 of its journal is not what was written"):
        runs.read("run-1")
    (store.stages / KEY).mkdir()
    assert all(one.what != f"stages/{KEY}" for one in clean(store).removed)


@pytest.mark.parametrize("left", ["torn", "damaged"])
def test_a_last_line_that_did_not_reach_the_disk_is_passed_over(runs: Runs, left: str) -> None:
    content = journal(runs).read_bytes()
    journal(runs).write_bytes(content[:-5] + (b"\0\0\0\0\n" if left == "damaged" else b""))
    assert runs.read("run-1").stages["b"].status is StageStatus.PENDING


def test_a_journal_of_another_record_means_nothing(runs: Runs) -> None:
    """As when a run is killed between writing its record as a whole and beginning the next journal."""
    old = journal(runs).read_bytes()
    runs.save(record(a=FAILED, b=FAILED))
    assert not journal(runs).exists()
    journal(runs).write_bytes(old)
    assert runs.read("run-1").stages == {"a": FAILED, "b": FAILED}


def test_a_journal_of_a_later_version_is_refused_and_one_without_a_seal_is_no_line(runs: Runs) -> None:
    seal = json.loads((runs.folder / "run-1" / RUN_NAME).read_bytes())["sha256"]
    journal(runs).write_text(json.dumps({"schema_version": 2, "record": seal}) + "\n")
    assert runs.read("run-1").stages["a"] == PLANNED
    journal(runs).write_text(json.dumps(sealed({"schema_version": 2, "record": seal})) + "\n")
    with pytest.raises(Unreadable, match="its journal is of version 2, and this program reads 1"):
        runs.read("run-1")


def test_a_record_without_a_journal_is_read_as_before(runs: Runs) -> None:
    journal(runs).unlink()
    assert runs.read("run-1").stages == {"a": PLANNED, "b": PLANNED}
    assert [one.run for one in all_runs(Store(runs.folder.parent))[0]] == ["run-1"]


def test_a_note_that_cannot_be_written_names_the_run(runs: Runs) -> None:
    with runs.journal(record(a=PLANNED)) as note:
        pass
    with pytest.raises(HostFault, match="the record of run run-1 cannot be written"):
        note("a", DONE)
    shutil.rmtree(runs.folder)
    runs.folder.touch()
    with pytest.raises(HostFault, match="the record of run run-1 cannot be written"), runs.journal(record(a=PLANNED)):
        pass
