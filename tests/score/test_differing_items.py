"""Items that compressed models pick otherwise than dense: which ones, in which order, and with whose words."""

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.contract import (
    ARTIFACT_NAME,
    DatasetDescriptor,
    DatasetSource,
    EvaluateRequest,
    EvaluateResult,
    FetchRequest,
    FetchResult,
    WorkRequest,
    WorkResult,
    describe_tree,
)
from harness.contract.artifact import DESCRIPTOR_NAME
from harness.contract.items import document_digest
from orchestrator.cli.app import app
from orchestrator.evidence.reading import stored_results
from orchestrator.evidence.value import Variant
from orchestrator.report import RunReport, render_html
from orchestrator.report.building import build_report
from orchestrator.report.differing import differing_tables
from orchestrator.run import resources
from orchestrator.score import differing, questions
from orchestrator.score.differing import NOT_ASKED_FOR, OtherPick, TaskDifferences
from orchestrator.store import RunRecord
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import honest_worker, with_items, write_descriptor

HOSTILE = "Is <script>alert(1)</script> | [bold]wet[/bold]?"
ROWS = {
    "arc_easy": [
        {"question": question, "choices": {"text": ["water", f"stone {number}"], "label": ["A", "B"]}, "answerKey": "A"}
        for number, question in enumerate(["What is wet?", HOSTILE, "What\n  rains? " * 40, "What pours?", "Unseen?"])
    ],
    "piqa": [{"goal": f"open door {number}", "sol1": "turn", "sol2": "eat", "label": 0} for number in range(3)],
}
WRONG = {
    "sparsegpt": {"arc_easy": {1, 3}, "piqa": {0, 1, 2}},
    "magnitude": {"arc_easy": {1, 2}, "piqa": {2}},
    None: {"arc_easy": {3}, "piqa": set()},
}
"""Of each task the items of which a variant picks the second choice, which is wrong."""
ASKED = {
    **MANIFEST,
    "compress": [{"method": "sparsegpt", "setting": "50%"}, {"method": "magnitude", "setting": "50%"}],
    "evaluate": {"tasks": ["arc_easy", "piqa"]},
    "profile": None,
    "benchmark": None,
}
SPARSEGPT, MAGNITUDE = (Variant(method=method, setting="50%") for method in ("sparsegpt", "magnitude"))


def worker(request: WorkRequest, output: Path) -> WorkResult:
    if isinstance(request, FetchRequest) and isinstance(request.parameters.source, DatasetSource):
        name = request.parameters.source.name
        return FetchResult(artifact=_data(name, output)) if name in ROWS else honest_worker(request, output)
    result = honest_worker(request, output)
    if not isinstance(request, EvaluateRequest) or not isinstance(result, EvaluateResult):
        return result
    parent = json.loads((Path(request.inputs["checkpoint"]) / DESCRIPTOR_NAME).read_bytes())
    wrong = WRONG[parent["method"]][result.task]
    return with_items(result, output, [_line(row, number in wrong, number) for number, row in _rows(result.task)])


def _rows(task: str) -> list[tuple[int, dict[str, Any]]]:
    return list(enumerate(ROWS[task]))


def _data(name: str, output: Path) -> DatasetDescriptor:
    folder = output / ARTIFACT_NAME
    folder.mkdir()
    split = {"arc_easy": "test", "piqa": "validation"}[name]
    _write(folder / f"{split}.jsonl.gz", ROWS[name])
    described = DatasetDescriptor(
        name=name, origin="a made set", rows={split: len(ROWS[name])}, files=describe_tree(folder)
    )
    return write_descriptor(folder, described)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode(), mtime=0))


def _line(row: Mapping[str, Any], wrong: bool, number: int) -> dict[str, Any]:
    return {
        "index": number,
        "document": document_digest(row),
        "log_likelihoods": [-3.0, -2.0] if wrong else [-2.0, -3.0],
        "gold": 0,
        "picked": int(wrong),
        "picked_norm": int(wrong),
        "correct": {"acc_norm": float(not wrong)},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resources, "device_lock_path", lambda name: folder / f"device-{name}.lock")
        return folder / "store", Bench(folder / "store").run(FakeRuntime(worker), ASKED)


@pytest.fixture
def record(made: tuple[Path, RunRecord]) -> RunRecord:
    return made[1]


@pytest.fixture
def bench(made: tuple[Path, RunRecord], tmp_path: Path) -> Bench:
    """A store of one's own, to be damaged."""
    shutil.copytree(made[0], tmp_path / "store")
    return Bench(tmp_path / "store")


def differences(bench: Bench, record: RunRecord) -> tuple[TaskDifferences, ...]:
    results = stored_results(record, bench.store)
    outcomes = {stage.provenance.key: bench.store.outcomes.of(stage) for stage in results.values()}
    known = {key: one for key, one in outcomes.items() if one is not None}
    return differing.differing_items(record, results, known, bench.store, bench.catalog)


def of_task(bench: Bench, record: RunRecord, task: str) -> TaskDifferences:
    (found,) = [one for one in differences(bench, record) if one.task == task]
    return found


def data_folder(bench: Bench, record: RunRecord, name: str) -> Path:
    stage = bench.store.read(record.stages[f"data/{name}"].key)
    return bench.store.artifacts.path(stage.provenance.artifact)


def test_items_come_by_how_many_variants_turned_with_both_picks(bench: Bench, record: RunRecord) -> None:
    found = of_task(bench, record, "arc_easy")
    assert (found.variants, found.items, found.differing) == (2, 5, 3)
    first, second, third = found.shown
    assert (first.item, first.right, first.dense) == (1, 0, 0)
    assert first.others == (OtherPick(choice=1, variants=(SPARSEGPT, MAGNITUDE)),)
    assert (second.item, second.others) == (2, (OtherPick(choice=1, variants=(MAGNITUDE,)),))
    assert (third.item, third.dense, third.others) == (3, 1, (OtherPick(choice=0, variants=(MAGNITUDE,)),))


def test_a_question_is_quoted_in_one_line_with_its_choices_its_source_and_its_licence(
    bench: Bench, record: RunRecord
) -> None:
    found = of_task(bench, record, "arc_easy")
    assert (found.dataset, found.repository) == ("arc_easy", "allenai/ai2_arc")
    assert (found.origin, found.licence) == ("a made set", "CC BY-SA 4.0")
    assert [item.question for item in found.shown[::2]] == [HOSTILE, "What pours?"]
    assert found.shown[0].choices == ("water", "stone 1")
    long = found.shown[1].question
    assert long is not None
    assert long.startswith("What rains? What rains?")
    assert len(long) <= questions.MOST_CHARACTERS
    assert long.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert of_task(bench, record, "piqa").shown[0].choices == ("turn", "eat")


def test_a_row_that_is_not_the_items_is_never_quoted_for_it(bench: Bench, record: RunRecord) -> None:
    rows = [dict(row) for row in ROWS["arc_easy"]]
    rows[1]["question"] = "Which is dry?"
    _write(data_folder(bench, record, "arc_easy") / "test.jsonl.gz", rows)
    found = of_task(bench, record, "arc_easy")
    assert [(item.item, item.question is None, item.choices == ()) for item in found.shown] == [
        (1, True, True), (2, False, False), (3, False, False),
    ]  # fmt: skip
    assert "Which is dry?" not in found.model_dump_json()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "test.jsonl.gz").unlink(), "the data set in the store cannot be read"),
        (lambda folder: (folder / "test.jsonl.gz").write_bytes(b"{}"), "the data set in the store cannot be read"),
        (lambda folder: _write(folder / "test.jsonl.gz", []), "the data set in the store has not these rows"),
        (lambda folder: folder.rename(folder.with_name("elsewhere")), "the data set is not in the store any more"),
    ],
    ids=["no file", "no gzip", "no rows", "no data set"],
)
def test_without_its_data_set_a_report_says_so_and_has_numbers_and_picks(
    bench: Bench, record: RunRecord, damage: Any, reason: str
) -> None:
    whole = of_task(bench, record, "arc_easy")
    damage(data_folder(bench, record, "arc_easy"))
    found = of_task(bench, record, "arc_easy")
    assert found.not_quoted is not None
    assert found.not_quoted.startswith(reason)
    bare = [item.model_copy(update={"question": None, "choices": ()}) for item in whole.shown]
    assert list(found.shown) == bare
    rows = [[cell.text for cell in row] for table in differing_tables((found,)) for row in table.rows]
    assert rows[0][3].startswith(f"not quoted: {reason}")
    assert rows[0][4:] == ["0", "0", "1 (2 of 2: sparsegpt 50%, magnitude 50%)"]
    assert rows[-1][3].startswith(f"not quoted: {reason}")


def test_few_are_shown_one_of_each_task_in_turn(
    bench: Bench, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {one.task: len(one.shown) for one in differences(bench, record)}
    assert shown == {"arc_easy": 3, "piqa": 3}
    monkeypatch.setattr(differing, "MOST_OF_RUN", 3)
    found = differences(bench, record)
    assert {one.task: len(one.shown) for one in found} == {"arc_easy": 2, "piqa": 1}
    assert [one.differing for one in found] == [3, 3]
    monkeypatch.setattr(differing, "MOST_OF_TASK", 1)
    assert [len(one.shown) for one in differences(bench, record)] == [1, 1]


def test_the_page_has_them_escaped_with_how_many_there_are(bench: Bench, record: RunRecord) -> None:
    page = render_html(build_report(record, bench.store, bench.catalog))
    assert "Items picked otherwise than by dense: 6 of 6 are shown" in page
    assert "Is &lt;script&gt;alert(1)&lt;/script&gt; | [bold]wet[/bold]?" in page
    assert HOSTILE not in page
    assert "1: stone 1 (2 of 2: sparsegpt 50%, magnitude 50%)" in page
    assert "arc_easy (allenai/ai2_arc on the Hub), rows from a made set; licence: CC BY-SA 4.0" in page


def test_a_report_without_questions_holds_no_word_of_a_data_set(bench: Bench, record: RunRecord) -> None:
    def printed(*more: str) -> str:
        asked = ["report", record.run, "--format", "json", "-o", "-", "--store", str(bench.root), *more]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.output
        return done.stdout

    words = ("What is wet?", "alert(1)", "stone 1", "open door 2", "rows from a made set")
    assert any(word in printed() for word in words)
    bare = printed("--no-questions")
    assert not any(word in bare for word in words)
    (arc, _) = RunReport.model_validate_json(bare).differing
    assert (arc.not_quoted, [item.item for item in arc.shown]) == (NOT_ASKED_FOR, [1, 2, 3])
