"""The records of runs: what is saved is read, by which names, and what is said where it is not to be had."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.errors import HostFault, StoreError
from orchestrator.store import RunRecord
from orchestrator.store.records import RunFacts
from orchestrator.store.runs import RUN_NAME, Runs
from orchestrator.store.versioned import Unreadable

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def record(name: str, minutes: int = 0, device: str = "Prozessor für „Prüfungen“") -> RunRecord:
    return RunRecord(
        run=name,
        facts=RunFacts(manifest_digest="0" * 64, runtime="fake", device_model=device),
        manifest={},
        decisions=("device: asked for",),
        stages={},
        created=NOON,
        updated=NOON + timedelta(minutes=minutes),
    )


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "store" / "runs")


@pytest.fixture
def three(runs: Runs) -> Runs:
    """Saved in no order; the middle one was last at work."""
    runs.folder.parent.mkdir()
    for name, minutes in (("quick-2", 9), ("slow-1", 2), ("quick-1", 1)):
        runs.save(record(name, minutes))
    return runs


def test_what_is_saved_is_read_and_a_second_save_takes_its_place(three: Runs) -> None:
    assert three.read("slow-1") == record("slow-1", 2)
    three.save(record("slow-1", 5))
    assert three.read("slow-1") == record("slow-1", 5)
    assert [one.name for one in (three.folder / "slow-1").iterdir()] == [RUN_NAME]


def test_a_record_is_for_people_too(three: Runs) -> None:
    """Each field on a line of its own, in the letters that it is of."""
    text = (three.folder / "slow-1" / RUN_NAME).read_text(encoding="utf-8")
    assert '\n "run": "slow-1",\n' in text
    assert '\n  "device_model": "Prozessor für „Prüfungen“",\n' in text


def test_runs_are_named_in_order_and_anything_else_in_the_folder_is_no_run(three: Runs) -> None:
    (three.folder / "empty").mkdir()
    (three.folder / "file").touch()
    assert three.names() == ["quick-1", "quick-2", "slow-1"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("slow-1", "slow-1"), ("s", "slow-1"), ("quick-2", "quick-2"), ("last", "quick-2")],
)
def test_a_run_goes_by_its_name_a_beginning_that_is_its_alone_or_as_the_last_at_work(
    three: Runs, wanted: str, found: str
) -> None:
    assert three.load(wanted).run == found


def test_a_name_that_another_begins_with_is_meant_itself(three: Runs) -> None:
    three.save(record("quick"))
    assert three.load("quick").run == "quick"


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [("quick", "2 runs begin with 'quick'"), ("other", "there is no run 'other'"), ("low", "there is no run 'low'")],
)
def test_a_name_of_none_or_of_several_is_refused_with_those_that_there_are(
    three: Runs, wanted: str, problem: str
) -> None:
    with pytest.raises(StoreError) as refused:
        three.load(wanted)
    assert refused.value.message == f"{problem} in {three.folder.parent}"
    assert refused.value.hint == "runs: quick-1, quick-2, slow-1"


@pytest.mark.parametrize("wanted", ["last", "any"])
def test_a_store_without_runs_says_so(runs: Runs, wanted: str) -> None:
    with pytest.raises(StoreError) as refused:
        runs.load(wanted)
    assert refused.value.message == f"there is no run {wanted!r} in {runs.folder.parent}"
    assert refused.value.hint == "runs: none yet"


def test_the_last_is_the_last_that_can_be_read(three: Runs) -> None:
    path = three.folder / "quick-2" / RUN_NAME
    path.write_bytes(path.read_bytes().replace(b"quick-2", b"quick-3"))
    assert three.load("last").run == "slow-1"
    assert three.name("quick-2") == "quick-2", "it has a name all the same"
    with pytest.raises(Unreadable, match=r"runs/quick-2 cannot be read: ") as refused:
        three.load("quick-2")
    assert refused.value.hint == (
        "run its manifest again, which begins another record; `orchestrator clean --run quick-2` forgets this one"
    )


def test_a_record_of_another_name_is_no_record_of_this_run(three: Runs) -> None:
    (three.folder / "slow-1").rename(three.folder / "fast-1")
    with pytest.raises(Unreadable, match=r"runs/fast-1 cannot be read: it is the record of slow-1$"):
        three.read("fast-1")


def test_a_record_has_a_seal_that_any_change_breaks_and_fields_of_later_versions_are_passed_over(three: Runs) -> None:
    path = three.folder / "slow-1" / RUN_NAME
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document | {"interrupted": True}), encoding="utf-8")
    with pytest.raises(Unreadable):
        three.read("slow-1")
    del document["sha256"]
    path.write_text(json.dumps(document | {"of_a_later_version": 1}), encoding="utf-8")
    assert three.read("slow-1") == record("slow-1", 2), "records had no seal at first"


def test_a_record_that_cannot_be_written_names_the_run_and_what_to_do(three: Runs) -> None:
    (three.folder / "blocked").touch()
    with pytest.raises(HostFault) as refused:
        three.save(record("blocked"))
    assert refused.value.message.startswith("the record of run blocked cannot be written: a file or folder cannot be ")
    assert "File exists" in refused.value.message
    assert refused.value.hint.startswith("make it usable")
    assert isinstance(refused.value.__cause__, FileExistsError)
