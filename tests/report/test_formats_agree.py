"""One report in all its formats: the same figures, read back from each."""

import csv
import html
import io
import json
import math
import re
import shutil
import subprocess

import pytest
from jsonschema import Draft202012Validator

from orchestrator.errors import StoreError
from orchestrator.evidence.value import Interval
from orchestrator.report import RunReport, render_html, render_markdown
from orchestrator.report.absolute import absolute_table, candidates
from orchestrator.report.files import read_report, write_leaderboard, write_reports
from orchestrator.report.latex import escape as latex
from orchestrator.report.latex import render_latex
from orchestrator.report.leaderboard import Leaderboard, leaderboard_html, leaderboard_latex, leaderboard_markdown
from orchestrator.report.pages import escape as markdown
from orchestrator.report.records import OVERALL, FigureRecord, records, render_csv, render_parquet
from orchestrator.report.schema import SCHEMAS, schema_text
from orchestrator.report.table import Footnotes
from orchestrator.report.view import view
from tests.report.small_reports import HOSTILE, make_report


def figures(report):
    """Every figure of the tables that all three documents have."""
    content = view(report)
    tables = [content.absolute, content.overview]
    tables += [table for track in content.tracks for table in (track.scores, track.values)]
    cells = [cell for table in tables for row in table.rows for cell in row[table.headings :]]
    return [text for cell in cells for text in (cell.text, *cell.below) if any(letter.isdigit() for letter in text)]


@pytest.mark.parametrize(
    ("render", "written"),
    [(render_html, html.escape), (render_markdown, markdown), (render_latex, latex)],
    ids=["html", "markdown", "latex"],
)
def test_every_figure_stands_in_every_document_as_often(report, render, written):
    found = figures(report)
    assert len(found) > 20
    text = " ".join(re.sub(r"<script.*?</script>", "", render(report), flags=re.DOTALL).split())
    for figure in dict.fromkeys(found):
        assert text.count(written(figure)) >= found.count(figure), figure


def test_the_flat_table_has_every_value_and_score_unrounded(report):
    rows = records(report)
    values = {(one.place, one.variant): one.value for one in report.scoring.values}
    held = [row for row in rows if row.part != OVERALL and row.value is not None]
    assert len(held) == len(values)
    assert math.fsum(row.value for row in held if math.isfinite(row.value)) == pytest.approx(
        math.fsum(value for value in values.values() if math.isfinite(value))
    )
    assert [row.value for row in rows if row.part == OVERALL] == [score.value for score in report.scores]
    assert all(row.reason for row in rows if row.value is None)


def test_csv_and_parquet_hold_the_same_rows(report):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = parquet.read_table(pyarrow.BufferReader(render_parquet((report,)))).to_pylist()
    typed = [FigureRecord.model_validate(row) for row in table]
    read = list(csv.DictReader(io.StringIO(render_csv((report,)))))
    as_documents = [one.model_dump(mode="json") for one in records(report)]
    assert [one.model_dump_json() for one in typed] == [one.model_dump_json() for one in records(report)]
    assert [{name: text or None for name, text in row.items()} for row in read] == [
        {name: None if value in (None, "") else str(value) for name, value in one.items()} for one in as_documents
    ]


@pytest.mark.parametrize(("path", "document"), SCHEMAS.items(), ids=lambda one: getattr(one, "name", None))
def test_each_schema_is_that_of_its_model(path, document):
    assert path.read_text("utf-8") == schema_text(document)


def test_the_json_document_follows_its_schema_and_can_be_read_back(report, tmp_path):
    (path,) = write_reports(report, tmp_path, ["json"])
    Draft202012Validator(json.loads(schema_text(RunReport))).validate(json.loads(path.read_text("utf-8")))
    assert read_report(path).model_dump_json() == report.model_dump_json()


def test_what_is_no_report_is_named(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(StoreError, match=r"other\.json cannot be read: not a report of this version"):
        read_report(tmp_path / "other.json")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX: apt-get install texlive-latex-base")
@pytest.mark.parametrize("model", ["tiny-llama", HOSTILE + " \\ {x}_^~#$%& \N{CJK UNIFIED IDEOGRAPH-6A21}"])
def test_the_latex_documents_compile(tmp_path, model):
    report = make_report(model=model)
    values = tuple(
        one.model_copy(update={"interval": Interval(low=0.9 * one.value, high=1.1 * one.value)})
        for one in report.scoring.values
    )
    report = report.model_copy(update={"scoring": report.scoring.model_copy(update={"values": values})})
    other = report.model_copy(update={"scoring": report.scoring.model_copy(update={"run": f"{model} again"})})
    for path in (*write_reports(report, tmp_path, ["latex"]), *write_leaderboard((report, other), tmp_path, ["latex"])):
        compile_latex(path)


def compile_latex(path):
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout


def with_values_of(report, model, tasks, run):
    kept = tuple(one for one in report.scoring.values if one.place.name in tasks or one.unit != "fraction")
    scoring = report.scoring.model_copy(update={"run": run, "values": kept})
    return report.model_copy(update={"scoring": scoring, "device": f"machine of {run}"})


def test_several_runs_are_one_table_with_their_machines(report):
    other = with_values_of(report, "tiny-llama", {"mmlu"}, "run-8")
    board = Leaderboard(reports=(report, other))
    table = absolute_table(candidates(board.reports), Footnotes())
    assert len(table.rows) == 2 * len(absolute_table(candidates((report,)), Footnotes()).rows)
    documents = {html.escape: leaderboard_html, markdown: leaderboard_markdown, latex: leaderboard_latex}
    found = [text for row in table.rows for cell in row[table.headings :] for text in (cell.text, *cell.below)]
    for written, render in documents.items():
        text = " ".join(render(board).split())
        for expected in ("run-7", "run-8", "a test processor", "machine of run-8", "Leaderboard of 2 runs", *found):
            assert text.count(written(expected)) >= max(1, found.count(expected)), expected


def test_a_leaderboard_is_written_in_each_format_of_several(report, tmp_path):
    other = with_values_of(report, "tiny-llama", {"mmlu"}, "run-8")
    written = write_leaderboard((report, other), tmp_path, ["html", "markdown", "json", "latex", "csv"])
    assert {path.name for path in written} == {f"leaderboard.{end}" for end in ("html", "md", "json", "tex", "csv")}
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").open()))
    assert {row["run"] for row in rows} == {"run-7", "run-8"}


def test_runs_by_other_protocols_are_said_not_to_be_comparable(report):
    values = tuple(one.model_copy(update={"protocol": "another"}) for one in report.scoring.values)
    other = report.model_copy(update={"scoring": report.scoring.model_copy(update={"run": "run-8", "values": values})})
    text = leaderboard_markdown(Leaderboard(reports=(report, other)))
    assert "mmlu of tiny-llama was measured by several protocols and is not comparable between these runs" in text
