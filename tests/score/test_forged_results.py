"""A stored result that is not what its parts give is used by no command, is named, and is made again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import zstandard
from click.testing import Result
from typer.testing import CliRunner

from harness.contract import FileEntry, WorkRequest, WorkResult, digest_file
from orchestrator.cli import measuring
from orchestrator.cli.app import app
from orchestrator.run import resources
from orchestrator.run.progress import SilentDisplay
from orchestrator.run.progress.plain import PlainDisplay
from orchestrator.score.comparison import Comparison
from orchestrator.score.scores import RunScores
from orchestrator.store import FailureKind, RunRecord, StageState, StageStatus, versioned
from tests.support.fake_runtime import FakeRuntime
from tests.support.measured_runs import pack
from tests.support.small_runs import MANIFEST, Bench, previewed
from tests.support.stage_workers import keeping_worker

PRUNED, SPEED = "evaluate/tiny/sparsegpt-50%/arc_easy", "benchmark/tiny/sparsegpt-50%/transformers"
ITEMS = "out/items.jsonl.zst"
Lines = list[dict[str, Any]]


class Counting:
    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, request: WorkRequest, output: Path) -> WorkResult:
        self.ran.append(request.id)
        return keeping_worker(request, output)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, RunRecord]:
    """One run for all tests; each alters a copy of its store."""
    folder = tmp_path_factory.mktemp("finished")
    bench = Bench(folder / "store")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resources, "device_lock_path", lambda name: folder / f"device-{name}.lock")
        return bench, bench.run(FakeRuntime(keeping_worker))


@pytest.fixture(scope="module")
def honest(finished: tuple[Bench, RunRecord]) -> dict[tuple[str, str, str], float]:
    return values_of(finished[0])


class Forger:
    """Alters the stored result of one stage; by default so that all digests fit, as who knows them would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def result(self, change: Callable[[dict[str, Any]], object], *, seals: bool = True) -> None:
        path = self.folder / "result.json"
        final = json.loads(path.read_bytes())
        change(final["result"])
        path.write_text(json.dumps(final), encoding="utf-8")
        if seals:
            self._seal()

    def items(self, change: Callable[[Lines], Lines | None], *, seals: bool = True) -> None:
        path = self.folder / ITEMS
        lines = [json.loads(line) for line in zstandard.decompress(path.read_bytes(), 10**6).splitlines()]
        pack(path, change(lines) or lines)
        if seals:
            self._seal()

    def bytes(self, change: Callable[[bytes], bytes]) -> None:
        path = self.folder / ITEMS
        path.write_bytes(change(path.read_bytes()))

    def _seal(self) -> None:
        path = self.folder / "provenance.json"
        content = versioned.unsealed(json.loads(path.read_bytes()))
        for name in content["files"]:
            file = self.folder / name
            entry = FileEntry(size_bytes=file.stat().st_size, sha256=digest_file(file))
            content["files"][name] = entry.model_dump(mode="json")
        path.write_text(json.dumps(versioned.sealed(content)), encoding="utf-8")


def metric_alone(forger: Forger) -> None:
    forger.result(lambda result: result["metrics"].update(acc_norm=0.95))


def items_alone(forger: Forger) -> None:
    def change(lines: Lines) -> None:
        lines[1] |= {"log_likelihoods": [-2.0, -3.0], "picked": 0, "picked_norm": 0, "correct": {"acc_norm": 1.0}}

    forger.items(change)


def correct_and_metric(forger: Forger) -> None:
    forger.items(lambda lines: [line | {"correct": {"acc_norm": 1.0}} for line in lines])
    forger.result(lambda result: result["metrics"].update(acc_norm=1.0))


def picked_and_correct_and_metric(forger: Forger) -> None:
    right = {"picked": 0, "picked_norm": 0, "correct": {"acc_norm": 1.0}}
    forger.items(lambda lines: [line | right for line in lines])
    forger.result(lambda result: result["metrics"].update(acc_norm=1.0))


def fewer_items(forger: Forger) -> None:
    forger.items(lambda lines: lines[:20])


def fewer_items_and_fewer_scored(forger: Forger) -> None:
    forger.items(lambda lines: lines[:20])
    forger.result(lambda result: result.update(items=20, metrics={"acc_norm": 7 / 20}))


def an_item_twice(forger: Forger) -> None:
    forger.items(lambda lines: [*lines[:-1], lines[0]])


def more_items_than_there_are(forger: Forger) -> None:
    forger.result(lambda result: result.update(items_available=59))


def no_items(forger: Forger) -> None:
    (forger.folder / ITEMS).unlink()


def no_finite_numbers(forger: Forger) -> None:
    forger.items(lambda lines: lines[0].update(log_likelihoods=[float("nan"), -1.0]))


def another_metric(forger: Forger) -> None:
    forger.result(lambda result: result.update(metric="acc"))


def digit(forger: Forger) -> None:
    forger.result(lambda result: result["metrics"].update(acc_norm=0.9333333333333333), seals=False)


FORGERIES: list[tuple[Callable[[Forger], None], str]] = [
    (metric_alone, "acc_norm is said to be 0.95, and the outcomes of its items give 0.333333333333"),
    (items_alone, "acc_norm is said to be 0.333333333333, and the outcomes of its items give 0.35"),
    (correct_and_metric, "line 1 of items.jsonl.zst: acc_norm is 1, with picked_norm 1 and gold 0"),
    (picked_and_correct_and_metric, "line 1 of items.jsonl.zst: picked is 0, and the largest is 1"),
    (fewer_items, "60 items are said to be scored, and there are outcomes of 20"),
    (fewer_items_and_fewer_scored, "20 items are scored or excluded, and it is asked for 60 of 60"),
    (an_item_twice, "items.jsonl.zst holds item 0 twice"),
    (more_items_than_there_are, "60 items are scored or excluded, and it is asked for 59 of 59"),
    (no_items, "the outcomes of the items (items.jsonl.zst) are not there"),
    (no_finite_numbers, "line 1 of items.jsonl.zst: log_likelihoods.0: Input should be a finite number"),
    (another_metric, "it gives no acc, which is its metric"),
    (lambda forger: forger.bytes(lambda content: content[:-9]), "items.jsonl.zst is not what was written"),
    (lambda forger: forger.bytes(lambda _: b""), "items.jsonl.zst is not what was written"),
    (digit, "result.json is not what was written"),
]
NAMES = [getattr(forge, "__name__", "damaged").strip("<>") for forge, _ in FORGERIES]


def forged(finished: tuple[Bench, RunRecord], folder: Path, stage: str, forge: Callable[[Forger], None]) -> Bench:
    bench, record = finished
    copy = Bench(Path(shutil.copytree(bench.root, folder / "store")))
    forge(Forger(copy.store.stages / str(record.stages[stage].key)))
    return copy


def call(bench: Bench, *command: str) -> Result:
    return CliRunner().invoke(app, [*command, "--store", str(bench.root)], catch_exceptions=False)


def values_of(bench: Bench) -> dict[tuple[str, str, str], float]:
    document = RunScores.model_validate_json(call(bench, "score", "last", "--json").stdout)
    return {(one.variant.label, one.place.part, one.place.name): one.value for one in document.values}


PRUNED_VALUE = ("sparsegpt 50%", "knowledge", "arc_easy")


@pytest.mark.parametrize(("forge", "reason"), FORGERIES, ids=NAMES)
def test_a_forged_or_damaged_evaluation_enters_no_score(
    finished: tuple[Bench, RunRecord],
    honest: dict[tuple[str, str, str], float],
    tmp_path: Path,
    forge: Callable[[Forger], None],
    reason: str,
) -> None:
    bench = forged(finished, tmp_path, PRUNED, forge)
    scored = call(bench, "score", "last", "--json")
    assert scored.exit_code == 3
    (warning,) = scored.stderr.splitlines()
    assert reason in warning
    assert PRUNED in warning
    document = RunScores.model_validate_json(scored.stdout)
    left = {(one.variant.label, one.place.part, one.place.name): one.value for one in document.values}
    assert left == {key: value for key, value in honest.items() if key != PRUNED_VALUE}
    pruned = next(one for one in document.scores if one.variant.method and one.track == 1)
    assert [place.name for place in [ratio.place for ratio in pruned.ratios]] == ["wikitext2"]
    missing = {one.place.name: one.reason for one in pruned.coverage.missing}
    assert missing["arc_easy"].startswith(f"{PRUNED}: its result is ")
    assert reason in missing["arc_easy"]


BY_EVERY_COMMAND = (metric_alone, no_items, digit)
"""Parts that do not agree, one that is not there, other bytes: commands share how a result is read."""


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        pytest.param(forge, reason, id=name, marks=() if forge in BY_EVERY_COMMAND else pytest.mark.slow)
        for (forge, reason), name in zip(FORGERIES, NAMES, strict=True)
    ],
)
def test_a_forged_or_damaged_evaluation_is_used_by_no_command(
    finished: tuple[Bench, RunRecord], tmp_path: Path, forge: Callable[[Forger], None], reason: str
) -> None:
    bench = forged(finished, tmp_path, PRUNED, forge)
    compared = call(bench, "compare", "last", "dense", "sparsegpt", "--json")
    assert compared.exit_code == 3
    difference = {one.place.name: one for one in Comparison.model_validate_json(compared.stdout).values}
    assert difference["arc_easy"].b is None
    assert difference["wikitext2"].difference is not None

    reported = call(bench, "report", "last", "--format", "json,markdown", "--output", str(tmp_path / "report"))
    assert reported.exit_code == 3
    report = json.loads((tmp_path / "report" / "report.json").read_bytes())
    (stage,) = [one for one in report["stages"] if one["name"] == PRUNED]
    assert stage["status"] == "failed"
    assert reason in stage["message"]
    assert reason in (tmp_path / "report" / "report.md").read_text("utf-8").replace("\\", "")


@pytest.mark.parametrize("forge", [metric_alone, correct_and_metric, no_items])
def test_a_run_makes_it_again_says_so_and_then_all_is_as_before(
    finished: tuple[Bench, RunRecord],
    honest: dict[tuple[str, str, str], float],
    tmp_path: Path,
    forge: Callable[[Forger], None],
) -> None:
    bench = forged(finished, tmp_path, PRUNED, forge)
    worker = Counting()
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        assert bench.run(FakeRuntime(worker), display=PlainDisplay(log)).complete
    assert worker.ran == [PRUNED]
    key = finished[1].stages[PRUNED].key
    assert f"{PRUNED} is made again: stages/{key} is not used: " in (tmp_path / "log").read_text("utf-8")
    assert call(bench, "score", "last").exit_code == 0
    assert values_of(bench) == honest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"decode_tokens_per_second": 40},
            "batch 1: decode_tokens_per_second is said to be 40, and the median of its samples is 30",
        ),
        ({"samples": []}, "batch 1: a speed without samples"),
        ({"interval": {"low": 19, "high": 20, "coverage": 0.5}}, "batch 1: the interval [19, 20] is not of samples"),
        ({"noise_floor": 0.1}, "batch 1: the noise floor is said to be 0.1, and no samples differ by more than 0"),
        ({"time_to_first_token_seconds": 2}, "batch 1: prefill_tokens_per_second is said to be 125, with 128 tokens"),
        (
            {"token_latency": {"p50_seconds": 2, "p90_seconds": 1, "p99_seconds": 3, "steps": 9}},
            "batch 1: the percentiles of the latency, [2.0, 1.0, 3.0], do not rise",
        ),
    ],
)
def test_a_speed_that_its_samples_do_not_give_is_used_by_no_command(
    finished: tuple[Bench, RunRecord], tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    bench = forged(
        finished, tmp_path, SPEED, lambda forger: forger.result(lambda result: result["speeds"][0].update(changes))
    )
    found = call(bench, "score", "last", "--json")
    assert found.exit_code == 3
    assert reason in found.stderr
    assert SPEED in found.stderr
    left = {(one.variant.label, one.place.part) for one in RunScores.model_validate_json(found.stdout).values}
    assert ("dense", "transformers") in left
    assert ("sparsegpt 50%", "transformers") not in left


def test_memory_whose_parts_do_not_add_up_is_not_used(finished: tuple[Bench, RunRecord], tmp_path: Path) -> None:
    parts = {"weight_bytes": 100, "kv_cache_bytes": 100, "activation_bytes": 100, "overhead_bytes": 699}
    stage = next(name for name in finished[1].stages if name.startswith("profile/tiny/sparsegpt"))
    bench = forged(
        finished, tmp_path, stage, lambda forger: forger.result(lambda result: result.update(memory_parts=parts))
    )
    found = call(bench, "score", "last", "--json")
    assert found.exit_code == 3
    assert "the parts of the memory are 999 bytes, and its peak is 800" in found.stderr


def other_right_answers(forger: Forger) -> None:
    """Consistent in itself: every answer that was wrong is right now."""

    def change(lines: Lines) -> Lines:
        wrong = {"gold": 1, "correct": {"acc_norm": 1.0}}
        return [line | (wrong if line["picked_norm"] == 1 else {}) for line in lines]

    forger.items(change)
    forger.result(lambda result: result["metrics"].update(acc_norm=1.0))


def test_right_answers_that_differ_between_variants_are_believed_of_none(
    finished: tuple[Bench, RunRecord], honest: dict[tuple[str, str, str], float], tmp_path: Path
) -> None:
    bench = forged(finished, tmp_path, PRUNED, other_right_answers)
    found = call(bench, "score", "last", "--json")
    assert found.exit_code == 3
    dense = PRUNED.replace("sparsegpt-50%", "dense")
    for stage, other in ((PRUNED, dense), (dense, PRUNED)):
        reason = f"the right answers of its items are not those of the same items in {other} (the result of {stage})"
        assert reason in found.stderr
    document = RunScores.model_validate_json(found.stdout)
    assert not [one for one in document.values if one.place.name == "arc_easy"]
    worker = Counting()
    bench.run(FakeRuntime(worker))
    assert sorted(worker.ran) == sorted([PRUNED, dense])
    assert values_of(bench) == honest


def test_what_is_damaged_while_a_run_is_at_work_is_missing_at_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path / "store")

    class Damaging(SilentDisplay):
        """Takes the items away as soon as the stage is done, whichever stage is the last to end."""

        def finished(self, stage: str, state: StageState) -> None:
            if stage == PRUNED:
                for provenance in bench.store.stages.glob("*/provenance.json"):
                    if json.loads(provenance.read_bytes())["stage"] == PRUNED:
                        (provenance.parent / ITEMS).unlink()

    manifest = {**MANIFEST, "evaluate": {"tasks": ["arc_easy", "wikitext2"], "limit": 60}}
    with pytest.raises(typer.Exit) as end:
        measuring._measure(bench.setup(FakeRuntime(keeping_worker), manifest), Damaging(), "make bench", as_json=True)
    assert end.value.exit_code == 3
    printed = capsys.readouterr()
    assert f"the outcomes of the items (items.jsonl.zst) are not there (the result of {PRUNED})" in printed.err
    values = json.loads(printed.out)["scoring"]["values"]
    assert [one["variant"]["method"] for one in values if one["place"]["name"] == "arc_easy"] == [None]


def test_a_plan_says_why_it_is_to_run_again(finished: tuple[Bench, RunRecord], tmp_path: Path) -> None:
    bench = forged(finished, tmp_path, PRUNED, metric_alone)
    again = {
        one.id: one.not_used for one in previewed(bench.setup(FakeRuntime(keeping_worker))) if one.status == "to run"
    }
    assert list(again) == [PRUNED]
    assert "is not used: acc_norm is said to be 0.95" in str(again[PRUNED])


def test_status_and_agreement_say_it_too(finished: tuple[Bench, RunRecord], tmp_path: Path) -> None:
    bench = forged(finished, tmp_path, PRUNED, metric_alone)
    for command in (("status", "last"), ("agreement", "last")):
        found = call(bench, *command)
        assert found.exit_code == 3
        assert "is not used: acc_norm is said to be 0.95" in found.stderr


def test_a_worker_whose_figures_are_not_those_of_its_items_has_no_result(tmp_path: Path) -> None:
    def boasting(request: WorkRequest, output: Path) -> WorkResult:
        result = keeping_worker(request, output)
        return result.model_copy(update={"metrics": {"acc_norm": 0.9}}) if request.id == PRUNED else result

    record = Bench(tmp_path / "store").run(FakeRuntime(boasting))
    state = record.stages[PRUNED]
    assert state.status is StageStatus.FAILED
    assert state.failure is not None
    assert state.failure.kind is FailureKind.CONTRACT_VIOLATION
    assert "acc_norm is said to be 0.9, and the outcomes of its items give 0.33" in state.failure.message
