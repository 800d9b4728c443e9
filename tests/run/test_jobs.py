"""A stage as a document: whatever process performs it, the store has what a run on this host would have put there."""

import threading
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from harness.contract import Device, DeviceKind, WorkRequest, WorkResult
from orchestrator.errors import HostFault, Interrupted
from orchestrator.host import devices
from orchestrator.host.devices import ChosenDevice
from orchestrator.host.gpus import Gpu
from orchestrator.installation import find_manifest
from orchestrator.manifest import read_manifest
from orchestrator.plan import build_plan
from orchestrator.run import job as jobs
from orchestrator.run.execution import Perform
from orchestrator.run.job import JobEnd, StageJob, perform
from orchestrator.run.known import inputs_of
from orchestrator.run.progress import SilentDisplay
from orchestrator.run.run import Run
from orchestrator.run.scheduling import QueueExecutor, ThisHost
from orchestrator.run.workshop import Workshop
from orchestrator.runtime.base import Runtime
from orchestrator.stages import Stage
from orchestrator.store import FailureKind, RunRecord
from tests.support.fake_runtime import FakeRuntime, Misbehaviour
from tests.support.small_runs import CATALOG, MANIFEST, Bench
from tests.support.stage_workers import honest_worker

FETCH = "fetch/tiny"


class ByDocument(ThisHost):
    """This host, told by documents what to do, as another would be."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def perform(self, host: str) -> Perform:
        def performed(stage, inputs, workshop, on_start, on_event):
            document = StageJob.of(stage, inputs, workshop).model_dump_json()
            on_start(StageJob.model_validate_json(document).key)
            end = perform(StageJob.model_validate_json(document), threading.Event(), self._runtime)
            return JobEnd.model_validate_json(end.model_dump_json()).finished()

        return performed


def run_by_documents(bench: Bench, runtime: FakeRuntime) -> RunRecord:
    cancel = threading.Event()
    executor = QueueExecutor(cancel, None, ByDocument(runtime))
    return Run(bench.setup(runtime), SilentDisplay(), cancel).perform(executor)


def first_job(bench: Bench, runtime: FakeRuntime, name: str = FETCH) -> StageJob:
    setup = bench.setup(runtime)
    stage = setup.plan.stage(name)
    workshop = Workshop(
        setup.store, setup.catalog, runtime, setup.device.model, "run", threading.Event(), lambda note: None
    )
    return StageJob.of(stage, inputs_of(stage, {}), workshop)


@pytest.mark.parametrize("manifest", ["accuracy", "quick", "paper-generalization"])
def test_a_planned_stage_is_the_same_after_it_was_a_document(manifest: str) -> None:
    device = Device(kind=DeviceKind.CUDA, uuids=("GPU-1", "GPU-2"))
    stages = build_plan(read_manifest(find_manifest(Path(manifest))), CATALOG, device, None).stages
    written = TypeAdapter(Stage)
    assert len(stages) > 5
    for stage in stages:
        assert written.validate_json(written.dump_json(stage)) == stage


def test_jobs_make_what_a_run_makes(bench: Bench, tmp_path: Path) -> None:
    usual = Bench(tmp_path / "usual").run(FakeRuntime(honest_worker))
    runtime = FakeRuntime(honest_worker)
    record = run_by_documents(bench, runtime)
    assert record.complete
    assert {name: state.key for name, state in record.stages.items()} == {
        name: state.key for name, state in usual.stages.items()
    }
    assert run_by_documents(bench, runtime).complete
    assert len(runtime.requests) == len(record.stages)


def test_a_worker_that_fails_fails_its_stage_alone(bench: Bench) -> None:
    killed = FakeRuntime(
        honest_worker, misbehave=lambda one: Misbehaviour.KILLED if "profile" in one.id and "dense" in one.id else None
    )
    record = run_by_documents(bench, killed)
    failed = {name: state.failure for name, state in record.stages.items() if state.failure is not None}
    assert list(failed) == ["profile/tiny/dense"]
    assert failed["profile/tiny/dense"].kind is FailureKind.OUT_OF_MEMORY
    assert (bench.root / str(failed["profile/tiny/dense"].folder)).is_dir()


def test_where_another_is_at_the_stage_the_job_says_neither_yes_nor_no(bench: Bench) -> None:
    runtime = FakeRuntime(honest_worker)
    job = first_job(bench, runtime)
    bench.store.make()
    with bench.store.claim(job.key):
        assert perform(job, threading.Event(), runtime).finished() is None
    finished = perform(job, threading.Event(), runtime).finished()
    assert finished is not None
    assert finished.key == job.key


def test_a_host_with_other_sources_makes_no_result_under_this_key(bench: Bench) -> None:
    runtime = FakeRuntime(honest_worker)
    job = first_job(bench, runtime)
    end = perform(job.model_copy(update={"key": "0" * 64}), threading.Event(), runtime)
    assert end.failure is not None
    assert "would come to another result here" in end.failure.message
    older = perform(job.model_copy(update={"stage": '{"id": "x"}'}), threading.Event(), runtime)
    assert older.failure is not None
    assert "another version of this program" in older.failure.message
    assert runtime.requests == []


def test_it_runs_on_gpus_that_the_process_sees_if_they_are_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = ChosenDevice(Device(kind=DeviceKind.CUDA, uuids=("GPU-1",)), "H100", "planned")
    bench, runtime = Bench(tmp_path / "store", device=device), FakeRuntime(honest_worker)
    assert perform(first_job(bench, runtime), threading.Event(), runtime).record is not None
    setup = bench.setup(runtime)
    known = Run(setup, SilentDisplay(), threading.Event()).look_up(setup.plan.stages)
    stage = setup.plan.stage("profile/tiny/dense")
    workshop = Workshop(setup.store, setup.catalog, runtime, "H100", "run", threading.Event(), lambda note: None)
    job = StageJob.of(stage, inputs_of(stage, known.artifacts), workshop)
    monkeypatch.setattr(devices, "list_gpus", lambda: (Gpu("GPU-x", "L4", None, "1"),))
    other = perform(job, threading.Event(), runtime)
    assert other.failure is not None
    assert other.failure.message == "profile/tiny/dense is planned for H100, and here is L4"
    monkeypatch.setattr(
        devices, "list_gpus", lambda: (Gpu("GPU-y", "H100", None, "1"), Gpu("GPU-z", "H100", None, "1"))
    )
    assert perform(job, threading.Event(), runtime).record is not None
    assert runtime.requests[-1].device.uuids == ("GPU-y",)


def test_an_interruption_and_a_fault_of_the_disk_are_raised_where_the_run_is(bench: Bench) -> None:
    runtime = FakeRuntime(honest_worker)
    stopped = threading.Event()
    stopped.set()
    end = perform(first_job(bench, runtime), stopped, runtime)
    with pytest.raises(Interrupted):
        JobEnd.model_validate_json(end.model_dump_json()).finished()

    def taking(request: WorkRequest, output: Path) -> WorkResult:
        answer = honest_worker(request, output)
        bench.root.rename(bench.root.with_name("elsewhere"))
        return answer

    fault = perform(first_job(bench, runtime), threading.Event(), FakeRuntime(taking))
    with pytest.raises(HostFault, match="taken away"):
        JobEnd.model_validate_json(fault.model_dump_json()).finished()


def test_a_runtime_that_is_not_there_fails_the_stage_with_its_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.errors import RuntimeUnavailable

    def refuse(name: str, root: Path) -> object:
        raise RuntimeUnavailable("no engine answers", hint="start it")

    monkeypatch.setattr(jobs, "named_runtime", refuse)
    end = perform(first_job(bench, FakeRuntime(honest_worker)), threading.Event())
    assert end.failure is not None
    assert (end.failure.kind, end.failure.message) == (FailureKind.INFRASTRUCTURE, "no engine answers")


def test_a_job_is_a_plain_document(bench: Bench) -> None:
    job = first_job(bench, FakeRuntime(honest_worker))
    assert StageJob.model_validate_json(job.model_dump_json()) == job
    assert MANIFEST["name"] not in job.stage
