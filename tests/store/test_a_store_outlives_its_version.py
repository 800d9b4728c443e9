"""Earlier records are upgraded when read; what cannot be read is named, passed over, and made again by a run."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.contract import RESULT_NAME, WorkRequest, WorkResult, digest_file
from orchestrator.cli.app import app
from orchestrator.errors import StoreError
from orchestrator.report import RunReport
from orchestrator.report.building import build_report
from orchestrator.score.scores import RunScores
from orchestrator.store import RunRecord, StageStatus, Store, Unreadable, versioned
from orchestrator.store.cleaning import clean
from orchestrator.store.history import open_run
from orchestrator.store.store import PROVENANCE_NAME
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import keeping_worker

FORMER = Path(__file__).parent / "former_store"
"""A finished run as version 1 stored it: `runs/` and `stages/` alone, no checkpoints."""
FORMER_SCORES = {
    ("dense", 1): (100.0, 100.0, 100.0),
    ("dense", 2): (100.0, 100.0, 100.0),
    ("dense", 4): (100.0, None, None),
    ("dense", 5): (100.0, None, None),
    ("sparsegpt", 1): (74.65803675693874, 67.16191119396625, 82.24170796411602),
    ("sparsegpt", 2): (81.87307530779817, 81.87307530779806, 81.87307530779827),
    ("sparsegpt", 3): (100.0, None, None),
    ("sparsegpt", 4): (141.4213562373095, None, None),
    ("sparsegpt", 5): (100.0, None, None),
}
"""By method and track: the overall metric and its interval, as that version printed them."""
COMPRESS = "compress/tiny/sparsegpt-50%"
EVALUATE = "evaluate/tiny/sparsegpt-50%/arc_easy"


class Counting:
    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, request: WorkRequest, output: Path) -> WorkResult:
        self.ran.append(request.id)
        return keeping_worker(request, output)


@pytest.fixture
def former(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FORMER, tmp_path / "former"))


@pytest.fixture
def record(bench: Bench) -> RunRecord:
    return bench.run(FakeRuntime(keeping_worker))


def test_fields_that_a_later_version_added_to_a_result_are_passed_over(bench: Bench, record: RunRecord) -> None:
    key = str(record.stages[EVALUATE].key)
    folder, before = bench.store.stages / key, bench.store.read(key)
    assert before is not None
    answer = json.loads((folder / RESULT_NAME).read_bytes())
    (folder / RESULT_NAME).write_text(json.dumps({**answer, "later": 1, "result": {**answer["result"], "later": 1}}))
    provenance = versioned.unsealed(json.loads((folder / PROVENANCE_NAME).read_bytes()))
    provenance["files"][RESULT_NAME]["sha256"] = digest_file(folder / RESULT_NAME)
    (folder / PROVENANCE_NAME).write_text(json.dumps(versioned.sealed({**provenance, "later": 1})))
    found = bench.store.read(key)
    assert found is not None
    assert found.final == before.final
    assert found.provenance.model_dump(exclude={"files"}) == before.provenance.model_dump(exclude={"files"})


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


def scores(store: Path) -> dict[tuple[str, int], tuple[float | None, ...]]:
    found = call("score", "last", "--json", "--store", store)
    assert found.exit_code == 0, found.output
    document = RunScores.model_validate_json(found.stdout)
    return {
        (one.variant.method or "dense", int(one.track)): (
            one.value,
            one.interval.low if one.interval else None,
            one.interval.high if one.interval else None,
        )
        for one in document.scores
        if one.value is not None
    }


def alter(path: Path, **changes: object) -> None:
    """Write a document as a program would that says something else; a seal is made anew."""
    document = json.loads(path.read_bytes())
    was_sealed = document.pop("sha256", None) is not None
    document |= changes
    path.write_text(json.dumps(versioned.sealed(document) if was_sealed else document), encoding="utf-8")


def damaged_run(bench: Bench, content: bytes) -> Path:
    """A run beside the others whose record is `content`; returns that record's path."""
    path = bench.store.runs.folder / "bad" / "run.json"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def flip_digit(bench: Bench, record: RunRecord, stage: str = EVALUATE) -> str:
    """Alter the figure of a stored result; returns the stage's folder within the store."""
    key = record.stages[stage].key
    path = bench.store.stages / str(key) / "result.json"
    text = path.read_text(encoding="utf-8")
    altered = text.replace('"acc_norm":0.3', '"acc_norm":0.9')
    assert altered != text
    path.write_text(altered, encoding="utf-8")
    return f"stages/{key}"


def test_a_run_of_the_former_layout_scores_the_same_to_the_last_digit_without_its_checkpoints(former: Path) -> None:
    assert scores(former) == FORMER_SCORES


def test_a_run_of_the_former_layout_is_reported_whole(former: Path) -> None:
    store = Store(former)
    opened = open_run(store, "last")
    assert opened.unreadable == ()
    report = build_report(opened.record, store, Bench(former).catalog)
    assert [(model.architecture, model.parameter_count) for model in report.models] == [("LlamaForCausalLM", 10)]
    assert report.models[0].digest == "01430b8da1ab0c9a949d7220797b0c4b28f927d12e65047e55731591c184977f"
    assert opened.record.ended == opened.record.updated
    assert opened.record.facts.commit is None


def test_a_run_of_the_former_layout_is_kept_by_cleaning_and_never_gone_on_with(former: Path) -> None:
    bench = Bench(former)
    before = (former / "runs" / "small-849349eb" / "run.json").read_bytes()
    record = bench.run(FakeRuntime(keeping_worker))
    assert record.run != "small-849349eb"
    cleaned = clean(bench.store)
    assert not [one.what for one in cleaned.removed if one.what.startswith(("runs", "stages"))]
    assert (former / "runs" / "small-849349eb" / "run.json").read_bytes() == before
    assert "small-849349eb  " in call("status", "--store", former).stdout


def test_a_former_run_that_was_interrupted_counts_as_unfinished(former: Path) -> None:
    path = former / "runs" / "small-849349eb" / "run.json"
    alter(path, interrupted=True)
    assert Store(former).runs.load("last").ended is None


def test_a_field_that_is_not_known_costs_nothing(bench: Bench, record: RunRecord) -> None:
    path = bench.store.runs.folder / record.run / "run.json"
    document = json.loads(path.read_bytes())
    document["manifest"]["from_tomorrow"] = {"answer": 42}
    document["stages"][EVALUATE]["weight"] = 1
    alter(path, manifest=document["manifest"], stages=document["stages"], mood="good")
    assert bench.store.runs.load("last").manifest == record.manifest
    assert scores(bench.root)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[1]", b"\xff", b'{"schema_version": 99}', b'{"schema_version": "x"}', b"{}", b"[" * 100_000]
)
def test_a_run_that_cannot_be_read_is_named_and_passed_over_by_all_but_who_asks_for_it(
    bench: Bench, record: RunRecord, damage: bytes
) -> None:
    bad = damaged_run(bench, damage)
    listing = call("status", "--store", bench.root)
    assert listing.exit_code == 3
    assert record.run in listing.stdout
    [warning] = listing.stderr.splitlines()
    assert warning.startswith("warning: runs/bad cannot be read: ")
    assert "pydantic" not in warning
    with pytest.raises(Unreadable, match="runs/bad") as refused:
        call("status", "bad", "--store", bench.root)
    assert "clean --run bad" in refused.value.hint
    clean(bench.store, drop_run="bad")
    assert not bad.parent.exists()
    assert call("status", "--store", bench.root).exit_code == 0


@pytest.mark.parametrize(
    "command", [["score", "last", "--resamples", "100"], ["report", "last"], ["clean", "--dry-run"]]
)
def test_a_command_about_other_runs_says_so_too(bench: Bench, record: RunRecord, command: list[str]) -> None:
    damaged_run(bench, b"{")
    found = call(*command, "--store", bench.root)
    assert found.exit_code == 3
    assert "runs/bad cannot be read" in found.stderr


def test_cleaning_keeps_what_a_run_that_cannot_be_read_may_refer_to(bench: Bench, record: RunRecord) -> None:
    path = bench.store.runs.folder / record.run / "run.json"
    other = bench.run(FakeRuntime(keeping_worker), {**MANIFEST, "name": "other", "evaluate": {"tasks": ["piqa"]}})
    alter(path, schema_version=99)
    clean(bench.store, drop_run=other.run)
    assert all(bench.store.read(str(state.key)) for state in record.stages.values())
    assert bench.store.read(str(other.stages["evaluate/tiny/dense/piqa"].key)) is None, "only `other` referred to it"
    path.write_bytes(path.read_bytes()[:200])
    assert clean(bench.store).removed == (), "nobody knows what it refers to"
    assert clean(bench.store, drop_run=record.run).removed


def test_a_manifest_that_is_not_understood_any_more_leaves_the_status(bench: Bench, record: RunRecord) -> None:
    path = bench.store.runs.folder / record.run / "run.json"
    alter(path, manifest={"schema_version": 7, "everything": "else"})
    assert record.run in call("status", record.run, "--store", bench.root).stdout
    with pytest.raises(StoreError, match=r"manifest of runs/small-.*version 7"):
        call("score", "last", "--store", bench.root)


def test_a_flipped_digit_is_noticed_named_and_measured_again(bench: Bench, record: RunRecord) -> None:
    before = scores(bench.root)
    where = flip_digit(bench, record)
    found = call("score", "last", "--json", "--store", bench.root)
    assert found.exit_code == 3
    [warning] = found.stderr.splitlines()
    assert where in warning
    assert EVALUATE in warning
    document = RunScores.model_validate_json(found.stdout)
    pruned = [one.place.name for one in document.values if one.variant.method == "sparsegpt" and one.place.track == 1]
    assert pruned == ["wikitext2"]
    reported = call("report", "last", "--format", "json", "-o", bench.root / "out", "--store", bench.root)
    assert reported.exit_code == 3
    report = json.loads((bench.root / "out" / "report.json").read_bytes())
    assert [one["status"] for one in report["stages"] if one["name"] == EVALUATE] == ["failed"]
    worker = Counting()
    bench.run(FakeRuntime(worker))
    assert worker.ran == [EVALUATE]
    assert scores(bench.root) == before
    assert open_run(bench.store, record.run).unreadable == ()


def test_a_result_that_is_gone_is_said_to_be_gone(bench: Bench, record: RunRecord) -> None:
    shutil.rmtree(bench.store.stages / str(record.stages[EVALUATE].key))
    opened = open_run(bench.store, "last")
    assert opened.record.stages[EVALUATE].status is StageStatus.FAILED
    assert [EVALUATE in one.reason for one in opened.unreadable] == [True]


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_no_flipped_bit_in_a_stored_result_changes_what_is_read(
    former: Path, bench: Bench, data: st.DataObject
) -> None:
    if not bench.root.exists():
        bench.run(FakeRuntime(keeping_worker))
    key = data.draw(st.sampled_from(sorted(path.name for path in bench.store.stages.iterdir())))
    path = bench.store.stages / key / data.draw(st.sampled_from(["provenance.json", "result.json"]))
    whole, content = bench.store.read(key), path.read_bytes()
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
    try:
        assert bench.store.read(key) == whole
    except Unreadable as unreadable:
        assert unreadable.what == f"stages/{key}"
        assert bench.store.find(key) is None
    finally:
        path.write_bytes(content)


def test_without_checkpoints_everything_is_scored_and_reported(bench: Bench, record: RunRecord) -> None:
    def report() -> RunReport:
        opened = open_run(bench.store, "last")
        assert opened.unreadable == ()
        return build_report(opened.record, bench.store, bench.catalog, quoted=False)  # data sets go, too

    before, scored = report(), scores(bench.root)
    shutil.rmtree(bench.store.artifacts.folder)
    assert report() == before
    assert scores(bench.root) == scored
    assert scored[("sparsegpt", 3)][0] is not None


def test_without_checkpoints_a_repeat_runs_nothing_and_more_work_makes_what_it_reads_alone(
    bench: Bench, record: RunRecord
) -> None:
    shutil.rmtree(bench.store.artifacts.folder)
    worker = Counting()
    assert bench.run(FakeRuntime(worker)).complete
    assert worker.ran == []
    more = {**MANIFEST, "evaluate": {"tasks": ["wikitext2", "arc_easy", "piqa"], "limit": 60}}
    assert bench.run(FakeRuntime(worker), more).complete
    made = {"fetch/tiny", "data/c4", COMPRESS, "data/piqa"}
    assert set(worker.ran) == made | {"evaluate/tiny/dense/piqa", "evaluate/tiny/sparsegpt-50%/piqa"}
    stored = bench.store.read(str(record.stages[COMPRESS].key))
    assert stored is not None
    assert stored.provenance.wall_seconds == record.stages[COMPRESS].wall_seconds, "what was measured first stands"


@pytest.mark.parametrize("damage", ["gone", "emptied", "altered"])
def test_outcomes_that_are_not_as_they_were_cost_the_value_until_they_are_measured_again(
    bench: Bench, record: RunRecord, damage: str
) -> None:
    before = scores(bench.root)
    path = bench.store.stages / str(record.stages[EVALUATE].key) / "out" / "items.jsonl.zst"
    whole = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(b"" if damage == "emptied" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert call("score", "last", "--store", bench.root).exit_code == 3
    worker = Counting()
    bench.run(FakeRuntime(worker))
    assert worker.ran == [EVALUATE]
    assert scores(bench.root) == before


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_a_sealed_document_is_what_it_was_and_no_other(content: dict[str, object]) -> None:
    document = {**content, versioned.VERSION: 2}
    document.pop(versioned.SEAL, None)
    assert versioned.unsealed(versioned.sealed(document)) == document
    with pytest.raises(ValueError, match="sha256"):
        versioned.unsealed({**versioned.sealed(document), "more": 1, versioned.VERSION: 3})


def test_every_step_of_a_chain_is_taken_once_and_in_order() -> None:
    steps = {at: lambda document, at=at: {**document, "steps": [*document["steps"], at]} for at in (1, 2, 3)}
    assert versioned.upgraded({"steps": []}, steps, 4) == {"steps": [1, 2, 3], versioned.VERSION: 4}
    assert versioned.upgraded({"steps": [], versioned.VERSION: 3}, steps, 4)["steps"] == [3]
    with pytest.raises(ValueError, match="version 5"):
        versioned.upgraded({versioned.VERSION: 5}, steps, 4)
