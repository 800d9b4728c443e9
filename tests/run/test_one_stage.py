"""One stage by itself, as a scheduler's job starts it: once, after what it needs, and safe to be started again."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.contract import Device, DeviceKind, ErrorCode, ErrorEvent, Sha256, WorkRequest, WorkResult
from orchestrator.cli import measuring
from orchestrator.cli.app import app
from orchestrator.errors import BadManifest, CommandExit, Interrupted, StoreError
from orchestrator.host import devices
from orchestrator.host.devices import ChosenDevice
from orchestrator.host.gpu_models import planned_device
from orchestrator.host.gpus import Gpu
from orchestrator.run.preview import look_ahead
from orchestrator.run.progress import SilentDisplay
from orchestrator.run.resources import on_gpus_here
from orchestrator.run.single import find_stage, run_one
from orchestrator.store import StageState, StageStatus
from tests.support.fake_runtime import FakeRuntime, Misbehaviour
from tests.support.small_runs import MANIFEST, Bench, previewed
from tests.support.stage_workers import honest_worker

COMPRESS, DATA = "compress/tiny/sparsegpt-50%", "data/c4"


class Slow(SilentDisplay):
    """Tells when a stage's worker is asked."""

    def __init__(self) -> None:
        self.at_work = threading.Event()

    def started(self, stage: str) -> None:
        self.at_work.set()


def one(bench: Bench, runtime: FakeRuntime, name: str, cancel: threading.Event | None = None) -> StageState:
    setup = bench.setup(runtime)
    return run_one(setup, find_stage(setup, name), SilentDisplay(), cancel or threading.Event())


def stage_ids(bench: Bench) -> list[str]:
    return [stage.id for stage in bench.setup(FakeRuntime(honest_worker)).plan.stages]


def test_one_by_one_all_of_a_plan_is_what_a_run_of_it_finds(bench: Bench) -> None:
    runtime = FakeRuntime(honest_worker)
    for name in stage_ids(bench):
        assert one(bench, runtime, name).status is StageStatus.DONE
    assert [request.id for request in runtime.requests] == stage_ids(bench)
    assert bench.store.runs.names() == []
    after = FakeRuntime(honest_worker)
    record = bench.run(after)
    assert record.complete
    assert after.requests == []


def test_what_is_done_is_not_done_again(bench: Bench) -> None:
    runtime = FakeRuntime(honest_worker)
    first, again = (one(bench, runtime, "fetch/tiny") for _ in range(2))
    assert (first.status, again.status) == (StageStatus.DONE, StageStatus.CACHED)
    assert first.key == again.key
    assert len(runtime.requests) == 1


def test_what_it_needs_has_to_have_a_result_and_its_output_to_be_there(bench: Bench) -> None:
    runtime = FakeRuntime(honest_worker)
    with pytest.raises(
        StoreError, match=f"needs what has no result, or whose output is gone: fetch/tiny, {DATA}"
    ) as no:
        one(bench, runtime, COMPRESS)
    assert "plan MANIFEST --jsonl" in no.value.hint
    assert runtime.requests == []
    fetched = one(bench, runtime, "fetch/tiny")
    one(bench, runtime, DATA)
    record = bench.store.find(str(fetched.key))
    assert record is not None
    assert record.artifact is not None
    weights = bench.store.artifacts.path(record.artifact.digest) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreError, match=r"or whose output is gone: fetch/tiny$"):
        one(bench, runtime, COMPRESS)


def test_a_stage_goes_by_its_key_once_that_is_known(bench: Bench) -> None:
    runtime = FakeRuntime(honest_worker)
    setup = bench.setup(runtime)
    key = look_ahead(setup).keys["fetch/tiny"]
    assert find_stage(setup, key).id == "fetch/tiny"
    with pytest.raises(BadManifest, match="has the key"):
        find_stage(setup, Sha256("0" * 64))
    with pytest.raises(BadManifest, match="unknown stage of this plan 'fetch/tinny'; did you mean 'fetch/tiny'"):
        find_stage(setup, "fetch/tinny")


def test_two_jobs_of_one_stage_are_one_worker_and_one_result(bench: Bench) -> None:
    go_on = threading.Event()

    def waiting(request: WorkRequest, output: Path) -> WorkResult:
        go_on.wait(60)
        return honest_worker(request, output)

    runtime, slow = FakeRuntime(waiting), Slow()
    ends: list[StageState] = []

    def job() -> None:
        setup = bench.setup(runtime)
        ends.append(run_one(setup, find_stage(setup, "fetch/tiny"), slow, threading.Event()))

    threads = [threading.Thread(target=job) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert slow.at_work.wait(60)
    go_on.set()
    for thread in threads:
        thread.join()
    assert {end.status for end in ends} == {StageStatus.DONE, StageStatus.CACHED}
    assert len(runtime.requests) == 1


def test_stopped_it_leaves_nothing_and_is_started_again(bench: Bench) -> None:
    cancel, slow = threading.Event(), Slow()
    setup = bench.setup(FakeRuntime(honest_worker, misbehave=lambda request: Misbehaviour.HANGS))
    threading.Thread(target=lambda: slow.at_work.wait(60) and cancel.set()).start()
    with pytest.raises(Interrupted):
        run_one(setup, find_stage(setup, "fetch/tiny"), slow, cancel)
    assert list(bench.store.attempts.iterdir()) == []
    assert one(bench, FakeRuntime(honest_worker), "fetch/tiny").status is StageStatus.DONE


@pytest.fixture
def command(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`orchestrator run-stage` with a worker; gives its result."""
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps({"schema_version": 1, **MANIFEST}), encoding="utf-8")

    def run(worker: Any, stage: str, *words: str) -> Any:
        runtime = FakeRuntime(worker)
        monkeypatch.setattr(
            measuring, "prepare", lambda manifest, *_, **__: bench.setup(runtime, manifest.model_dump(mode="json"))
        )
        return CliRunner().invoke(app, ["run-stage", str(path), stage, *words, "--progress", "none"])

    return run


def test_its_exit_status_tells_a_scheduler_what_became_of_it(command: Any) -> None:
    def unable(request: WorkRequest, output: Path) -> ErrorEvent:
        return ErrorEvent(id=request.id, code=ErrorCode.UNSUPPORTED, message="not this", hint="", reason="shape")

    failed = command(unable, "fetch/tiny", "--json")
    assert failed.exit_code == CommandExit.INCOMPLETE
    assert json.loads(failed.stdout)["failure"]["message"] == "not this"
    done = command(honest_worker, "fetch/tiny", "--json")
    assert done.exit_code == CommandExit.COMPLETE
    document = json.loads(done.stdout)
    assert (document["id"], document["status"]) == ("fetch/tiny", "done")
    assert command(honest_worker, "fetch/tiny").stdout == "fetch/tiny: cached\n"
    assert isinstance(command(honest_worker, COMPRESS).exception, StoreError)
    assert StoreError.exit_status == CommandExit.BAD_REQUEST


def test_a_plan_says_of_each_stage_what_a_scheduler_has_to_know(bench: Bench) -> None:
    runtime = FakeRuntime(honest_worker)
    limited = {**MANIFEST, "limits": {"memory_gib": 2, "deadline_seconds": 60}, "exclusive_host": True}
    before = {one.id: one for one in previewed(bench.setup(runtime, limited))}
    timed = before["benchmark/tiny/dense/transformers"]
    assert (timed.timed, timed.host_alone, timed.needs) == (True, True, ("fetch/tiny",))
    assert (timed.memory_bytes, timed.deadline_seconds, timed.gpus) == (2 * 2**30, 60, 0)
    assert bench.run(runtime).complete
    assert {one.estimate for one in previewed(bench.setup(runtime))} == {None}
    twice = previewed(bench.setup(runtime, {**MANIFEST, "rounds": {"benchmark": 2, "profile": 1}}))
    estimates = [one.estimate for one in twice if one.status == "to run"]
    assert estimates
    for estimate in estimates:
        assert estimate is not None
        assert estimate.seconds is not None
        assert estimate.basis == "what the same took in earlier runs here"


def test_a_plan_says_how_many_gpus_each_stage_takes(tmp_path: Path) -> None:
    device = ChosenDevice(Device(kind=DeviceKind.CUDA, uuids=("GPU-1", "GPU-2", "GPU-3")), "H100", "asked for")
    bench = Bench(tmp_path / "store", device=device)
    asked = {**MANIFEST, "evaluate": {"tasks": ["arc_easy"], "limit": 60, "gpus": 2}}
    gpus = {one.id: one.gpus for one in previewed(bench.setup(FakeRuntime(honest_worker), asked))}
    assert gpus["fetch/tiny"] == 0
    assert (gpus[COMPRESS], gpus["evaluate/tiny/dense/arc_easy"], gpus["profile/tiny/dense"]) == (1, 2, 1)


def test_a_plan_for_a_model_of_gpu_runs_on_any_gpus_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = planned_device("cuda:H200", None, 2)
    assert planned is not None
    bench = Bench(tmp_path / "store", device=planned)
    asked = {**MANIFEST, "evaluate": {"tasks": ["arc_easy"], "limit": 60, "gpus": 2}}
    plan = bench.setup(FakeRuntime(honest_worker), asked).plan
    evaluation = plan.stage("evaluate/tiny/dense/arc_easy")
    h200 = [Gpu(f"GPU-{number}", planned.model, None, "1") for number in range(2)]

    def there(*gpus: Gpu) -> None:
        monkeypatch.setattr(devices, "list_gpus", lambda: gpus)

    there(*h200)
    assert on_gpus_here(evaluation, planned.model).device.uuids == ("GPU-0", "GPU-1")
    there(h200[0])
    with pytest.raises(BadManifest, match="takes 2 GPUs, and 1 are there"):
        on_gpus_here(evaluation, planned.model)
    there(Gpu("GPU-9", "NVIDIA L4", None, "1"))
    with pytest.raises(BadManifest, match="planned for NVIDIA H200, and here is NVIDIA L4"):
        on_gpus_here(evaluation, planned.model)
    assert on_gpus_here(plan.stage("fetch/tiny"), planned.model) == plan.stage("fetch/tiny")
