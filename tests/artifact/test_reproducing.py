"""A packed run is run again, and each value judged by its kind."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.contract import (
    ARTIFACT_NAME,
    DESCRIPTOR_NAME,
    BenchmarkRequest,
    BenchmarkResult,
    CompressRequest,
    CompressResult,
    Environment,
    ErrorCode,
    ErrorEvent,
    EvaluateRequest,
    EvaluateResult,
    FetchRequest,
    WorkRequest,
    WorkResult,
    describe_tree,
)
from orchestrator.artifact.reproducing import REPORT_NAME, Asked, DoesNotHold, reproduce
from orchestrator.artifact.reproduction import Kind, Reproduction, Sample, Verdict, Why
from orchestrator.artifact.sampling import drawn
from orchestrator.artifact.wording import reproduction_lines
from orchestrator.errors import BadManifest, Interrupted
from orchestrator.host.load import MachineLoad
from orchestrator.manifest import Manifest
from orchestrator.run import execution
from orchestrator.run.progress import SilentDisplay
from orchestrator.run.run import Setup
from orchestrator.store import Store
from tests.artifact.packed import Small, call, reseal
from tests.support import fake_runtime
from tests.support.fake_runtime import FakeRuntime, Handler
from tests.support.small_runs import Bench
from tests.support.stage_workers import (
    ITEMS,
    is_pruned,
    keeping_worker,
    questions,
    segments,
    with_items,
    write_descriptor,
)

DENSE, PRUNED = "evaluate/tiny/dense/arc_easy", "evaluate/tiny/sparsegpt-50%/arc_easy"
TEXT = "evaluate/tiny/dense/wikitext2"
ALL = Sample()


def again(small: Small, store: Path, handler: Handler = keeping_worker, sample: Sample = ALL) -> Reproduction:
    def prepare(manifest: Manifest) -> Setup:
        return Bench(store).setup(FakeRuntime(handler), manifest.model_dump())

    return reproduce(small.file, Asked(sample), prepare, SilentDisplay())


def verdicts(found: Reproduction, what: str) -> dict[Kind, Verdict]:
    return {one.kind: one.verdict for one in found.judgements if one.what == what}


def says(found: Reproduction, what: str) -> str:
    return next(one.says for one in found.judgements if one.what == what)


def on_another_processor(patch: pytest.MonkeyPatch) -> None:
    """Workers here are on other hardware than the one that was packed."""
    before = fake_runtime.environment_of_a_fake

    def other(request: WorkRequest) -> Environment:
        return before(request).model_copy(update={"cpu_family": "another"})

    patch.setattr(fake_runtime, "environment_of_a_fake", other)


def evaluating(change: Callable[[EvaluateRequest, EvaluateResult, Path], WorkResult]) -> Handler:
    def handler(request: WorkRequest, output: Path) -> WorkResult:
        result = keeping_worker(request, output)
        if isinstance(request, EvaluateRequest) and isinstance(result, EvaluateResult):
            return change(request, result, output)
        return result

    return handler


def otherwise(count: int, nats: float = 0.0) -> Handler:
    """So many right answers of dense are wrong, and the losses of the texts larger by so many nats a token."""

    def change(request: EvaluateRequest, result: EvaluateResult, output: Path) -> WorkResult:
        pruned = is_pruned(request)
        if result.metric == "perplexity":
            items = segments([2.0 + 0.1 * (index % 7) + 0.2 * pruned + nats for index in range(ITEMS)])
        else:
            right = [index % 2 == 0 and not (pruned and index % 3 == 0) for index in range(ITEMS)]
            wrong = [index for index, one in enumerate(right) if one and not pruned][:count]
            items = questions([one and index not in wrong for index, one in enumerate(right)], result.metric)
        return with_items(result, output, items[: request.parameters.limit], available=ITEMS)

    return evaluating(change)


def other_checkpoints(request: WorkRequest, output: Path) -> WorkResult:
    """One weight of what is compressed is another one."""
    result = keeping_worker(request, output)
    if not isinstance(result, CompressResult):
        return result
    folder = output / ARTIFACT_NAME
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    (folder / DESCRIPTOR_NAME).unlink()
    descriptor = result.artifact.model_copy(update={"files": describe_tree(folder)})
    return result.model_copy(update={"artifact": write_descriptor(folder, descriptor)})


@pytest.fixture(scope="module")
def same(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    return again(small, tmp_path_factory.mktemp("again") / "store")


def test_the_same_comes_out_byte_by_byte_and_times_are_not_judged(small: Small, same: Reproduction) -> None:
    assert same.holds and not same.others and same.run == small.run and same.again.startswith("small-again-")
    stages = {one.what: one for one in same.judgements if one.what in small.record.stages}
    assert stages.keys() == small.record.stages.keys()
    assert {one.kind for one in stages.values() if one.verdict is Verdict.PASS} == {Kind.BYTES, Kind.COUNTS}
    timed = [name for name, one in stages.items() if one.verdict is Verdict.NOT_RUN]
    assert timed and all(name.startswith("benchmark/") and stages[name].why is Why.NEVER for name in timed)
    assert any(one.kind is Kind.RATIO and one.verdict is Verdict.PASS for one in same.judgements)
    assert verdicts(same, "OM_perf of sparsegpt 50%") == {Kind.SCORE: Verdict.PASS}
    assert verdicts(same, "OM_train of sparsegpt 50%") == {Kind.SCORE: Verdict.NOT_RUN}
    lines = list(reproduction_lines(same))
    assert not any("the time was up" in line for line in lines)
    assert lines[0].startswith("packed") and "what was run came out again" in lines[-1]


def test_the_report_lies_beside_the_record_and_the_same_request_measures_nothing_anew(
    small: Small, tmp_path: Path
) -> None:
    first = again(small, tmp_path / "store")
    report = Store(tmp_path / "store").runs.folder / first.again / REPORT_NAME
    assert Reproduction.model_validate_json(report.read_bytes()) == first

    def refuse(_: WorkRequest, __: Path) -> WorkResult:
        raise AssertionError("it is known")

    assert again(small, tmp_path / "store", refuse).holds


def test_where_all_that_decides_it_is_the_same_one_outcome_is_one_too_many(small: Small, tmp_path: Path) -> None:
    found = again(small, tmp_path / "store", otherwise(1))
    assert not found.holds and verdicts(found, DENSE) == {Kind.BYTES: Verdict.FAIL}
    assert "1 of 60 outcomes differ" in says(found, DENSE)
    assert verdicts(found, PRUNED) == {Kind.BYTES: Verdict.PASS}


@pytest.mark.parametrize(("count", "nats", "picks"), [(4, 0.005, Verdict.PASS), (5, 3.0, Verdict.FAIL)])
def test_elsewhere_picks_log_likelihoods_and_perplexities_lie_within_their_bounds(
    count: int, nats: float, picks: Verdict, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_another_processor(monkeypatch)
    found = again(small, tmp_path / "store", otherwise(count, nats))
    assert found.others == {"on another processor": len(small.record.stages)}
    assert verdicts(found, DENSE)[Kind.PICKS] is picks
    assert f"{count} of 60 otherwise, 4 may be" in says(found, DENSE)
    assert verdicts(found, TEXT) == {Kind.LOG_LIKELIHOODS: picks, Kind.PERPLEXITY: picks}
    assert found.holds == (picks is Verdict.PASS)


def test_a_score_outside_of_its_interval_fails(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_another_processor(monkeypatch)
    found = again(small, tmp_path / "store", otherwise(25))
    assert verdicts(found, "OM_perf of sparsegpt 50%") == {Kind.SCORE: Verdict.FAIL}


def test_a_ratio_to_dense_outside_of_its_band_fails_and_one_within_does_not(small: Small, tmp_path: Path) -> None:
    def faster(request: WorkRequest, output: Path) -> WorkResult:
        result = keeping_worker(request, output)
        if isinstance(request, BenchmarkRequest) and isinstance(result, BenchmarkResult) and is_pruned(request):
            speeds = tuple(
                one.model_copy(update={"decode_tokens_per_second": 60.0, "samples": (60.0, 60.0)})
                for one in result.speeds
            )
            return result.model_copy(update={"speeds": speeds})
        return result

    found = again(small, tmp_path / "store", faster)
    ratios = [one for one in found.judgements if one.kind is Kind.RATIO]
    assert [one.verdict for one in ratios].count(Verdict.FAIL) == 1
    assert any("3 here, 1.5 in the file: a factor of 2, 1.5 may be" in one.says for one in ratios)


def test_a_ratio_is_not_judged_where_the_machine_was_busy(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        def load(self) -> MachineLoad:
            return MachineLoad(pressure_fraction=0.6)

    monkeypatch.setattr(execution, "LoadWatch", Busy)
    found = again(small, tmp_path / "store")
    busy = [one for one in found.judgements if one.why is Why.BUSY]
    assert busy and all("this one: tasks waited" in one.says for one in busy) and found.holds


def test_a_checkpoint_of_other_bytes_fails_here_and_elsewhere_has_to_be_as_large(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "compress/tiny/sparsegpt-50%"
    found = again(small, tmp_path / "here", other_checkpoints)
    assert verdicts(found, name) == {Kind.BYTES: Verdict.FAIL}
    assert found.others == {"of other inputs": 4}
    on_another_processor(monkeypatch)
    found = again(small, tmp_path / "there", other_checkpoints)
    assert verdicts(found, name) == {Kind.COUNTS: Verdict.PASS} and "as large" in says(found, name)


def test_a_sample_runs_what_it_needs_and_says_what_it_left(small: Small, tmp_path: Path) -> None:
    found = again(small, tmp_path / "store", sample=Sample(stages=1, seed=3))
    run = {one.what for one in found.judgements if one.what in small.record.stages and one.why is not Why.SAMPLE}
    left = {one.what for one in found.judgements if one.why is Why.SAMPLE}
    assert found.holds and run and left and run | left == small.record.stages.keys() and not run & left
    other = again(small, tmp_path / "other", sample=Sample(stages=1, seed=4))
    assert {one.what for one in other.judgements if one.why is Why.SAMPLE} != left
    partly = [one for one in found.judgements if one.why is Why.PARTS]
    assert any(one.kind is Kind.SCORE for one in partly)


def test_a_measurement_beside_dense_is_drawn_with_denses(tmp_path: Path) -> None:
    plan = Bench(tmp_path / "store").setup(FakeRuntime(keeping_worker)).plan
    for operation in ("benchmark", "profile"):
        pruned = next(one.id for one in plan.stages if one.id.startswith(f"{operation}/tiny/sparsegpt"))
        dense = next(one.id for one in plan.stages if one.id.startswith(f"{operation}/tiny/dense"))
        assert {pruned, dense, "fetch/tiny", "data/c4"} < drawn(plan, {pruned: 1.0}, Sample(stages=1))
        assert drawn(plan, {dense: 1.0}, Sample(stages=1)) == {dense, "fetch/tiny"}


def test_what_is_not_done_in_time_is_not_run_and_the_rest_is_judged(small: Small, tmp_path: Path) -> None:
    begun = threading.Event()

    def slow(request: WorkRequest, output: Path) -> WorkResult:
        if not isinstance(request, FetchRequest):
            begun.wait(1.5)
        return keeping_worker(request, output)

    found = again(small, tmp_path / "store", slow, Sample(within_seconds=1.0))
    assert any(one.why is Why.TIME for one in found.judgements)
    assert any(one.verdict is Verdict.PASS for one in found.judgements) and found.holds
    left = sum(one.why is Why.TIME for one in found.judgements)
    assert list(reproduction_lines(found))[-2].startswith(f"the time was up before {left} of the stages")


def test_nothing_fits_into_no_time(small: Small, tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="nothing of the run fits"):
        again(small, tmp_path / "store", sample=Sample(within_seconds=1e-9))


def test_an_interruption_by_hand_is_one(small: Small, tmp_path: Path) -> None:
    def stop(_: WorkRequest, __: Path) -> WorkResult:
        raise KeyboardInterrupt

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        again(small, tmp_path / "store", stop)


def test_a_stage_that_fails_here_has_its_reason_and_the_status_says_so(small: Small, tmp_path: Path) -> None:
    def handler(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if isinstance(request, CompressRequest):
            return ErrorEvent(id=request.id, code=ErrorCode.INTERNAL, message="no room here", hint="")
        return keeping_worker(request, output)

    found = again(small, tmp_path / "store", handler)
    assert not found.holds and found.of(Verdict.PASS) and not found.of(Verdict.FAIL)
    row = next(one for one in found.judgements if one.what == "compress/tiny/sparsegpt-50%")
    assert (row.verdict, row.why) == (Verdict.NOT_RUN, Why.HERE) and "no room here" in row.says
    assert any("no room here" in line for line in reproduction_lines(found))


def test_the_store_of_the_run_itself_answers_nothing(small: Small, tmp_path: Path) -> None:
    store = Path(shutil.copytree(small.file.parent / "store", tmp_path / "store"))
    found = again(small, store)
    stages = [one for one in found.judgements if one.what in small.record.stages]
    assert {one.why for one in stages} == {Why.HERE} and "measure in another store" in stages[0].says
    assert not found.holds


def test_what_does_not_verify_is_not_run(small: Small, tmp_path: Path) -> None:
    forged = Small(reseal({**small.files, "manifest.json": b"{}"}, small.run, tmp_path / "forged"), small.record)
    with pytest.raises(DoesNotHold, match="does not verify"):
        again(forged, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_the_command_measures_beside_the_file_and_ends_with_3_where_something_fails(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = iter((keeping_worker, otherwise(1)))

    def prepare(manifest: Manifest, store: Path, *_: object) -> Setup:
        assert (manifest.device, manifest.runtime) == ("cpu", "auto")
        return Bench(store).setup(FakeRuntime(next(handlers)), manifest.model_dump())

    monkeypatch.setattr("orchestrator.cli.planning.prepare", prepare)
    done = call("reproduce", small.file, "--progress", "none")
    assert done.exit_code == 0, done.output
    assert "what was run came out again" in done.stdout and (tmp_path / "small-again" / "runs").is_dir()
    done = call("reproduce", small.file, "--store", tmp_path / "other", "--json", "--progress", "none")
    assert done.exit_code == 3
    assert {one["verdict"] for one in json.loads(done.stdout)["judgements"]} == {"PASS", "FAIL", "NOT RUN"}
    with pytest.raises(BadManifest, match="'soon' is no time"):
        call("reproduce", small.file, "--within", "soon")
