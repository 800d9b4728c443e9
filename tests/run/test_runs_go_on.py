"""A run measures what is missing, keeps what it has, and says why the rest is not there."""

import errno
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.contract import (
    ErrorCode,
    ErrorEvent,
    EvaluateRequest,
    ProfileResult,
    Reason,
    ResultEvent,
    WorkRequest,
    WorkResult,
)
from orchestrator.errors import HostFault, Interrupted, StoreError
from orchestrator.evidence.value import Variant
from orchestrator.report.building import build_report
from orchestrator.store import FailureKind, Provenance, RunRecord, StageRecord, StageStatus, Store
from orchestrator.tracks import Track
from tests.support.fake_runtime import FakeRuntime, Misbehaviour
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker, is_pruned

PRUNED = Variant(method="sparsegpt", setting="50%")


class Counting:
    """Counts the stages that really ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        self.ran.append(request.id)
        return honest_worker(request, output)


def test_a_run_measures_dense_and_compressed_and_scores_both(bench: Bench) -> None:
    record = bench.run(FakeRuntime(honest_worker))
    assert record.complete
    report = build_report(record, bench.store, bench.catalog)
    dense, pruned = (report.scoring.score(one, Track.PERFORMANCE) for one in (Variant(), PRUNED))
    assert dense is not None
    assert pruned is not None
    assert dense.value == pytest.approx(100)
    assert pruned.value == pytest.approx(90)
    assert pruned.coverage.summary == "2 of 9 data sets"
    assert {missing.place.name for missing in pruned.coverage.missing} >= {"mmlu", "piqa"}


def test_running_again_runs_nothing(bench: Bench) -> None:
    worker = Counting()
    first = bench.run(FakeRuntime(worker))
    ran = len(worker.ran)
    second = bench.run(FakeRuntime(worker))
    assert len(worker.ran) == ran == len(first.stages)
    assert {state.status for state in second.stages.values()} == {StageStatus.CACHED}


def test_adding_a_task_runs_that_task_alone(bench: Bench) -> None:
    worker = Counting()
    bench.run(FakeRuntime(worker))
    worker.ran.clear()
    more = {**MANIFEST, "evaluate": {"tasks": ["wikitext2", "arc_easy", "piqa"], "limit": 60}}
    bench.run(FakeRuntime(worker), more)
    assert sorted(worker.ran) == ["data/piqa", "evaluate/tiny/dense/piqa", "evaluate/tiny/sparsegpt-50%/piqa"]


def test_a_failure_blocks_what_needs_it_and_nothing_else(bench: Bench) -> None:
    def without_data(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if request.id == "data/wikitext2":
            return ErrorEvent(id=request.id, code=ErrorCode.MISSING_DATA, message="not to be had", hint="get it")
        return honest_worker(request, output)

    record = bench.run(FakeRuntime(without_data))
    assert not record.complete
    assert record.stages["data/wikitext2"].status is StageStatus.FAILED
    blocked = record.stages["evaluate/tiny/dense/wikitext2"]
    assert blocked.status is StageStatus.BLOCKED
    assert blocked.failure is not None
    assert "data/wikitext2" in blocked.failure.message
    assert record.stages["evaluate/tiny/dense/arc_easy"].status is StageStatus.DONE
    score = build_report(record, bench.store, bench.catalog).scoring.score(PRUNED, Track.PERFORMANCE)
    assert score is not None
    reasons = {missing.place.name: missing.reason for missing in score.coverage.missing}
    assert "data/wikitext2" in reasons["wikitext2"]


def test_a_worker_that_answers_with_another_operations_result_fails_its_stage_alone(bench: Bench) -> None:
    dense = bench.run(FakeRuntime(honest_worker), {**MANIFEST, "compress": []})
    stored = bench.store.read(dense.stages["profile/tiny/dense"].key or "")
    assert stored is not None
    profile = stored.final.result
    assert isinstance(profile, ProfileResult)

    def profiling(request: WorkRequest, output: Path) -> WorkResult:
        return profile if request.id == "compress/tiny/sparsegpt-50%" else honest_worker(request, output)

    record = bench.run(FakeRuntime(profiling))
    failure = record.stages["compress/tiny/sparsegpt-50%"].failure
    assert failure is not None
    assert failure.kind is FailureKind.CONTRACT_VIOLATION
    assert "result.operation is 'profile', and 'compress' was asked for" in failure.message
    assert record.stages["evaluate/tiny/sparsegpt-50%/wikitext2"].status is StageStatus.BLOCKED
    assert record.stages["evaluate/tiny/dense/wikitext2"].status is StageStatus.CACHED


def test_a_failed_stage_is_tried_again_and_the_rest_is_kept(bench: Bench) -> None:
    def forgetful(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if isinstance(request, EvaluateRequest) and is_pruned(request):
            return ErrorEvent(id=request.id, code=ErrorCode.OUT_OF_MEMORY, message="too big", hint="smaller")
        return honest_worker(request, output)

    record = bench.run(FakeRuntime(forgetful))
    failed = record.stages["evaluate/tiny/sparsegpt-50%/arc_easy"]
    assert failed.failure is not None
    assert failed.failure.kind is FailureKind.OUT_OF_MEMORY
    assert failed.failure.folder is not None
    assert (bench.store.root / failed.failure.folder / "request.json").is_file()
    worker = Counting()
    assert bench.run(FakeRuntime(worker)).complete
    assert sorted(worker.ran) == ["evaluate/tiny/sparsegpt-50%/arc_easy", "evaluate/tiny/sparsegpt-50%/wikitext2"]
    assert list(bench.store.failures.iterdir()) == []


def test_unsupported_is_told_apart_from_failed(bench: Bench) -> None:
    def picky(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if request.id.startswith("compress/"):
            return ErrorEvent(
                id=request.id, code=ErrorCode.UNSUPPORTED, reason=Reason.SHAPE, message="width 3", hint="another"
            )
        return honest_worker(request, output)

    record = bench.run(FakeRuntime(picky))
    state = record.stages["compress/tiny/sparsegpt-50%"]
    assert state.status is StageStatus.UNSUPPORTED
    assert state.failure is not None
    assert state.failure.reason is Reason.SHAPE
    report = build_report(record, bench.store, bench.catalog)
    score = report.scoring.score(PRUNED, Track.PERFORMANCE)
    assert score is not None
    assert score.value is None


def test_an_interruption_keeps_what_was_finished(bench: Bench) -> None:
    def interrupted(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if request.id == "compress/tiny/sparsegpt-50%":
            raise KeyboardInterrupt
        return honest_worker(request, output)

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        bench.run(FakeRuntime(interrupted))
    record = bench.store.runs.load("last")
    assert record.interrupted
    assert record.stages["fetch/tiny"].status is StageStatus.DONE
    worker = Counting()
    assert bench.run(FakeRuntime(worker)).complete
    assert "fetch/tiny" not in worker.ran


def test_what_is_at_work_stands_in_the_record_with_its_key_and_since_when(bench: Bench) -> None:
    seen: dict[str, RunRecord] = {}

    def looking(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        seen[request.id] = bench.store.runs.load("last")
        return honest_worker(request, output)

    ended = bench.run(FakeRuntime(looking))
    for stage, record in seen.items():
        state = record.stages[stage]
        assert (state.status, state.key) == (StageStatus.RUNNING, ended.stages[stage].key)
        assert state.started is not None
        assert record.created <= state.started <= record.updated
        assert ended.stages[stage].started == state.started
    fetched = seen["fetch/tiny"].stages
    assert fetched["compress/tiny/sparsegpt-50%"].status is StageStatus.PENDING
    assert {state.started for state in bench.run(FakeRuntime(honest_worker)).stages.values()} == {None}


def test_what_a_run_goes_on_with_keeps_when_it_was_at_work(bench: Bench) -> None:
    def interrupted(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if request.id == "compress/tiny/sparsegpt-50%":
            raise KeyboardInterrupt
        return honest_worker(request, output)

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        bench.run(FakeRuntime(interrupted))
    before = bench.store.runs.load("last").stages["fetch/tiny"].started
    assert before is not None
    assert bench.run(FakeRuntime(honest_worker)).stages["fetch/tiny"].started == before


def test_two_orchestrators_on_one_store_share_the_work(bench: Bench) -> None:
    worker = Counting()
    records = []
    threads = [threading.Thread(target=lambda: records.append(bench.run(FakeRuntime(worker)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.complete for record in records] == [True, True]
    assert len(worker.ran) == len(set(worker.ran)) == len(records[0].stages)


def test_a_disk_without_room_refuses_before_anything_starts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("orchestrator.run.space.shutil.disk_usage", lambda path: usage(10, 9, 1))
    worker = Counting()
    with pytest.raises(StoreError, match="needs about"):
        bench.run(FakeRuntime(worker))
    assert worker.ran == []


def test_a_disk_that_fills_up_ends_the_run_and_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Store.commit

    def full(store: Store, attempt: Path, final: ResultEvent, provenance: Provenance, *rest: Any) -> StageRecord:
        if provenance.stage == "profile/tiny/dense":
            raise OSError(errno.ENOSPC, "No space left on device")
        return commit(store, attempt, final, provenance, *rest)

    monkeypatch.setattr(Store, "commit", full)
    before = Counting()
    with pytest.raises(HostFault, match="no space is left") as caught:
        bench.run(FakeRuntime(before))
    assert "clean" in caught.value.hint
    stopped = bench.store.runs.load("last")
    assert stopped.interrupted
    assert StageStatus.RUNNING not in {state.status for state in stopped.stages.values()}
    monkeypatch.undo()
    worker = Counting()
    record = bench.run(FakeRuntime(worker))
    assert record.complete
    assert record.run == stopped.run
    finished = {name for name, state in stopped.stages.items() if state.status is StageStatus.DONE}
    assert "fetch/tiny" in finished
    assert finished & set(worker.ran) == set()
    assert "profile/tiny/dense" in set(before.ran) & set(worker.ran)


@pytest.mark.parametrize("full", [True, False])
def test_a_worker_that_meets_a_full_disk_ends_the_run_and_one_that_breaks_down_does_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    def short_of_space(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if request.id == "profile/tiny/dense":
            return ErrorEvent(id=request.id, code=ErrorCode.DISK_FULL, message="no space", hint="free some")
        return honest_worker(request, output)

    usage = shutil.disk_usage(bench.root.parent)
    monkeypatch.setattr(
        "orchestrator.run.execution.shutil.disk_usage", lambda path: usage._replace(free=0 if full else 2**40)
    )
    monkeypatch.setattr("orchestrator.run.run.check_space", lambda *asked: ())
    if full:
        with pytest.raises(HostFault, match="profile/tiny/dense ended with: no space"):
            bench.run(FakeRuntime(short_of_space))
        return
    failure = bench.run(FakeRuntime(short_of_space)).stages["profile/tiny/dense"].failure
    assert failure is not None
    assert failure.kind is FailureKind.DISK_FULL


@pytest.mark.parametrize("remade", [False, True])
def test_a_store_that_is_taken_away_ends_the_run_whatever_lies_there_then(bench: Bench, remade: bool) -> None:
    def taking(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        answer = honest_worker(request, output)
        if request.id == "profile/tiny/dense":
            bench.root.rename(bench.root.with_name("elsewhere"))
            if remade:
                (bench.root / "running").mkdir(parents=True)
        return answer

    with pytest.raises(HostFault) as caught:
        bench.run(FakeRuntime(taking))
    assert caught.value.hint
    if remade:
        shutil.rmtree(bench.root)
    assert not bench.root.exists()
    bench.root.with_name("elsewhere").rename(bench.root)
    assert bench.run(FakeRuntime(honest_worker)).complete


@pytest.mark.parametrize("name", ["stages", "artifacts", "runs", "failures", "attempts", "resume"])
def test_a_store_over_several_disks_is_refused_when_it_is_opened(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def mounted(folder: Path) -> tuple[int, str]:
        return (1, "mnt_id:\t2" if folder.name == name else "mnt_id:\t1")

    monkeypatch.setattr("orchestrator.store.store.mount_of", mounted)
    worker = Counting()
    with pytest.raises(StoreError, match=f"{name} of the store") as caught:
        bench.run(FakeRuntime(worker))
    assert "one disk" in caught.value.hint
    assert worker.ran == []


@pytest.mark.parametrize(
    ("misbehaviour", "kind"),
    [
        (Misbehaviour.GARBAGE, FailureKind.CONTRACT_VIOLATION),
        (Misbehaviour.TWICE, FailureKind.CONTRACT_VIOLATION),
        (Misbehaviour.SILENT, FailureKind.CRASHED),
        (Misbehaviour.KILLED, FailureKind.OUT_OF_MEMORY),
        (Misbehaviour.HANGS, FailureKind.TIMED_OUT),
    ],
)
def test_a_worker_without_manners_costs_its_own_figure_alone(
    bench: Bench, misbehaviour: Misbehaviour, kind: FailureKind
) -> None:
    def misbehave(request: WorkRequest) -> Misbehaviour | None:
        return misbehaviour if request.id == "profile/tiny/dense" else None

    # Long enough for the stages that answer at once, on any machine; only one waits for it.
    deadline = 5 if misbehaviour is Misbehaviour.HANGS else 600
    manifest = {**MANIFEST, "limits": {"deadline_seconds": deadline}}
    record = bench.run(FakeRuntime(honest_worker, misbehave=misbehave), manifest)
    failed = [name for name, state in record.stages.items() if state.status is not StageStatus.DONE]
    assert failed == ["profile/tiny/dense"]
    failure = record.stages["profile/tiny/dense"].failure
    assert failure is not None
    assert failure.kind is kind
    assert failure.message
    assert failure.hint
