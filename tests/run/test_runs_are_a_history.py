"""A run that ended is never written again; the same command goes on with one that did not."""

import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import Device, ErrorCode, ErrorEvent, Operation, WorkRequest, WorkResult
from orchestrator.errors import Interrupted, StoreError
from orchestrator.host.devices import ChosenDevice
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.run import facts
from orchestrator.run.facts import checkout_commit
from orchestrator.run.progress import SilentDisplay
from orchestrator.run.run import Run
from orchestrator.run.scheduling import LocalExecutor
from orchestrator.store import RunFacts, RunRecord, StageStatus
from orchestrator.store.cleaning import clean
from orchestrator.store.history import all_runs, is_at_work, take_run
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker

COMPRESS = "compress/tiny/sparsegpt-50%"
DIGEST = "1" * 64


def stopping_at(stage: str):
    def worker(request: WorkRequest, output: Path) -> WorkResult:
        if request.id == stage:
            raise KeyboardInterrupt
        return honest_worker(request, output)

    return FakeRuntime(worker)


def interrupt(bench: Bench, stage: str = COMPRESS, manifest: dict[str, object] | None = None) -> RunRecord:
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        bench.run(stopping_at(stage), manifest)
    return bench.store.runs.load("last")


def content(bench: Bench, run: str) -> bytes:
    return (bench.store.runs.folder / run / "run.json").read_bytes()


def test_a_finished_run_is_not_written_again_by_a_repeat(bench: Bench) -> None:
    first = bench.run(FakeRuntime(honest_worker))
    before = content(bench, first.run)
    second = bench.run(FakeRuntime(honest_worker))
    assert first.run == f"small-{Manifest.model_validate(MANIFEST).digest[:8]}-001"
    assert second.run == first.run.removesuffix("001") + "002"
    assert {state.status for state in second.stages.values()} == {StageStatus.CACHED}
    assert content(bench, first.run) == before


def test_an_interrupted_repeat_with_results_gone_leaves_the_finished_run_as_it_was(bench: Bench) -> None:
    first = bench.run(FakeRuntime(honest_worker))
    before = content(bench, first.run)
    key = first.stages[COMPRESS].key
    assert key is not None
    (bench.store.stages / key / "result.json").write_text("{", encoding="utf-8")
    second = interrupt(bench)
    assert second.run != first.run
    assert second.stages[COMPRESS].status is not StageStatus.DONE
    assert content(bench, first.run) == before
    assert bench.store.runs.load(first.run).complete


def test_the_same_command_goes_on_with_a_run_that_was_interrupted(bench: Bench) -> None:
    stopped = interrupt(bench)
    assert (stopped.interrupted, stopped.ended) == (True, None)
    record = bench.run(FakeRuntime(honest_worker))
    assert (record.run, record.created) == (stopped.run, stopped.created)
    assert record.complete
    assert record.ended is not None
    assert not record.interrupted
    assert {state.status for state in record.stages.values()} == {StageStatus.DONE}, "all of it was done by this run"
    assert bench.store.runs.names() == [record.run]


def test_a_run_that_ended_with_failures_is_kept_beside_the_one_that_tries_again(bench: Bench) -> None:
    def forgetful(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if request.id == COMPRESS:
            return ErrorEvent(id=request.id, code=ErrorCode.OUT_OF_MEMORY, message="too big", hint="smaller")
        return honest_worker(request, output)

    first = bench.run(FakeRuntime(forgetful))
    second = bench.run(FakeRuntime(honest_worker))
    assert second.complete
    assert second.run != first.run
    assert bench.store.runs.load(first.run) == first
    assert first.stages[COMPRESS].status is StageStatus.FAILED


def test_another_device_or_data_folder_is_another_run(bench: Bench, tmp_path: Path) -> None:
    stopped = interrupt(bench)
    other = Bench(bench.root, device=ChosenDevice(Device(threads=1), "another processor", "asked for"))
    on_device = other.run(FakeRuntime(honest_worker))
    assert on_device.complete
    cancel = threading.Event()
    setup = replace(bench.setup(FakeRuntime(honest_worker)), data=tmp_path)
    with_data = Run(setup, SilentDisplay(), cancel).perform(LocalExecutor(cancel))
    names = [stopped.run, on_device.run, with_data.run]
    assert names == sorted(names)
    assert len(set(names)) == 3
    assert bench.store.runs.load(stopped.run) == stopped
    assert with_data.facts.differing(stopped.facts) == ("data",)


def test_an_interrupted_run_goes_on_behind_another_commit_and_names_both(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "checkout_commit", lambda: "e" * 40)
    stopped = interrupt(bench)
    monkeypatch.setattr(facts, "checkout_commit", lambda: "f" * 40)
    record = bench.run(FakeRuntime(honest_worker))
    assert (record.run, record.created) == (stopped.run, stopped.created)
    assert record.facts.commit == "f" * 40
    assert record.decisions == (*stopped.decisions, f"went on at commit {'f' * 40}, after commit {'e' * 40}")


def test_a_commit_that_leaves_the_harness_another_one_is_another_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = interrupt(bench)
    monkeypatch.setattr(facts, "checkout_commit", lambda: "f" * 40)
    monkeypatch.setattr(facts, "harness_digest", lambda: "another")
    record = bench.run(FakeRuntime(honest_worker))
    assert record.run != stopped.run
    assert record.facts.differing(stopped.facts) == ("harness digest",)


def test_auto_and_the_runtime_that_it_comes_to_are_one_run(bench: Bench) -> None:
    stopped = interrupt(bench, manifest={**MANIFEST, "runtime": "auto", "device": "auto"})
    record = bench.run(FakeRuntime(honest_worker), {**MANIFEST, "runtime": "process", "device": "cpu"})
    assert record.run == stopped.run
    assert record.complete


def test_a_run_that_another_process_is_at_is_left_to_it(bench: Bench) -> None:
    stopped = interrupt(bench)
    with take_run(bench.store, "small", stopped.facts) as taken:
        assert taken.earlier == stopped
        assert is_at_work(bench.store, stopped.run)
        record = bench.run(FakeRuntime(honest_worker))
        assert not is_at_work(bench.store, record.run)
    assert not is_at_work(bench.store, stopped.run)
    assert record.run != stopped.run
    assert bench.store.runs.load(stopped.run) == stopped


def test_why_a_record_is_new_is_said(bench: Bench) -> None:
    notes: list[str] = []

    class Noting(SilentDisplay):
        def note(self, message: str) -> None:
            notes.append(message)

    first = bench.run(FakeRuntime(honest_worker), display=Noting())
    more = {**MANIFEST, "evaluate": {"tasks": ["piqa"]}}
    interrupt(bench, "data/piqa", more)
    bench.run(FakeRuntime(honest_worker), more, Noting())
    second = bench.run(FakeRuntime(honest_worker), display=Noting())
    said = [note for note in notes if note.startswith("run:")]
    assert said[0] == f"run: {first.run}"
    assert said[1].endswith("goes on where it stopped")
    assert said[2] == f"run: {second.run} is a new record, since {first.run} has ended"


def test_cleaning_keeps_what_an_earlier_record_of_the_same_manifest_refers_to(bench: Bench) -> None:
    first = bench.run(FakeRuntime(honest_worker))
    other = Bench(bench.root, device=ChosenDevice(Device(threads=1), "another processor", "asked for"))
    second = other.run(FakeRuntime(honest_worker))
    keys = {
        run.run: {state.key for state in run.stages.values() if state.operation is Operation.EVALUATE}
        for run in (first, second)
    }
    assert keys[first.run].isdisjoint(keys[second.run])
    assert clean(bench.store).removed == ()
    removed = {one.what for one in clean(bench.store, drop_run=first.run).removed}
    assert {f"stages/{key}" for key in keys[first.run]} <= removed
    assert removed.isdisjoint(f"stages/{key}" for key in keys[second.run])


def test_runs_are_listed_as_they_were_begun_and_the_last_is_the_one_last_at_work(bench: Bench) -> None:
    first = bench.run(FakeRuntime(honest_worker), {**MANIFEST, "name": "zebra"})
    second = bench.run(FakeRuntime(honest_worker), {**MANIFEST, "name": "ape"})
    assert [one.run for one in all_runs(bench.store)[0]] == [first.run, second.run]
    assert bench.store.runs.load("last") == second
    assert bench.store.runs.load("zebra") == first
    bench.run(FakeRuntime(honest_worker), {**MANIFEST, "name": "zebra"})
    with pytest.raises(StoreError, match="2 runs begin with 'zebra'") as refused:
        bench.store.runs.load("zebra")
    assert first.run in refused.value.hint


def test_the_content_of_a_local_model_folder_is_a_fact(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    digests = set()
    for weights in ("a", "b"):
        (folder / "config.json").write_text(weights, encoding="utf-8")
        manifest = Manifest.model_validate({**MANIFEST, "models": [{"name": "m", "source": f"dir:{folder}"}]})
        plan = build_plan(manifest, bench.catalog, bench.device.device, None)
        resolved = facts.resolve_facts(manifest.digest, plan, "fake", bench.device, "nowhere", {})
        digests.add((resolved.manifest_digest, resolved.plan_digest))
    assert len({digest for digest, _ in digests}) == 1
    assert len({digest for _, digest in digests}) == 2


FACTS = st.builds(
    RunFacts,
    manifest_digest=st.just(DIGEST),
    plan_digest=st.sampled_from([None, DIGEST]),
    runtime=st.sampled_from(["docker", "process"]),
    device_model=st.sampled_from(["a", "b"]),
    data=st.sampled_from([None, "x"]),
    images=st.dictionaries(st.sampled_from(["one", "two"]), st.sampled_from(["i", "j"])),
    commit=st.sampled_from([None, "c"]),
)


@given(FACTS, FACTS)
def test_facts_that_differ_in_nothing_are_equal_but_for_the_commit(one: RunFacts, other: RunFacts) -> None:
    assert (one.model_copy(update={"commit": other.commit}) == other) == (one.differing(other) == ())
    assert RunFacts.model_validate_json(one.model_dump_json()) == one


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=one", "-c", "user.email=one@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_that_of_the_checkout_and_says_when_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "harness_folder", lambda: tmp_path / "harness")
    assert checkout_commit() is None
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one", encoding="utf-8")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert checkout_commit() == commit
    (tmp_path / "file").write_text("two", encoding="utf-8")
    assert checkout_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert checkout_commit() is None
