"""The Markdown report and the terminal summary."""

import io
import re

from rich.console import Console

from orchestrator.report import RunReport, render_markdown, summary_table, summary_text


def table_lines(markdown):
    return [line for line in markdown.splitlines() if line.startswith("|")]


def test_markdown_rows_have_as_many_cells_as_their_header(report):
    width = None
    for line in render_markdown(report).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        width = width or cells
        assert cells == width, line


def test_markdown_shows_what_the_page_shows(report):
    markdown = render_markdown(report)
    for expected in (
        "# Benchmark report: run-7",
        "| wanda | 50% | 81.97 (1/9) own 80.62 (2/9) |",
        "| wanda | 50% | 81.97 | \N{EN DASH} \\[6\\] own 79.26 | 81.97 own 80.62 (2/9) | the 1 value that all have; "
        "own: 2 of 9 data sets |",
        "OM_perf is computed over the 1 value that all compressed variants with a score have (mmlu of tiny-llama)",
        "## What is missing, and why",
        "wikitext2 of tiny-llama: the value is not a number (gptq W8A16)",
        "## Stages",
        "out of memory",
        "weights are stored dense; 50.0% zeros",
        "process:34ab:cp311",
    ):
        assert expected in markdown, expected


def test_markdown_escapes_names_and_messages(hostile_report):
    markdown = render_markdown(hostile_report)
    assert "<script" not in markdown.replace("\\<script", "")
    assert "\\| \\[bold\\]broken\\[/bold\\] &amp; \\*more\\* \\|" in markdown
    assert table_lines(markdown)
    test_markdown_rows_have_as_many_cells_as_their_header(hostile_report)


def test_the_plain_summary_has_all_six_tracks_and_the_reasons(report):
    text = summary_text(report)
    for expected in ("1 OM_perf", "2 OM_gen", "3 OM_train", "4 OM_inf", "5 OM_hard", "6 OM_trust", "dense", "gptq"):
        assert expected in text
    assert re.search(r"\| wanda +\| 50% +\| +81\.97 \(1/9\) \| +\N{EN DASH} \[1\] \| +100\.00 \| +100\.00 \|", text)
    assert "[1] the manifest does not ask for this track" in text
    assert "vllm batch 1 of tiny-llama: vLLM no longer serves 2:4 checkpoints (wanda 50%)" in text
    assert "Results: runs/run-7" in text


def test_the_plain_summary_keeps_to_its_width_and_has_no_control_codes(hostile_report):
    text = summary_text(hostile_report, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_a_missing_score_is_never_shown_as_zero(report):
    assert not re.search(r"\| +0(\.0+)? +\|", summary_text(report))
    assert not any(re.search(r"\| 0(\.0+)? \|", line) for line in table_lines(render_markdown(report)))


def test_the_training_cost_that_dense_cannot_have_is_not_listed_as_missing(report):
    missing = render_markdown(report).partition("## What is missing, and why")[2].partition("## ")[0]
    assert "compress failed: out of memory (gptq W8A16)" in missing
    assert "the dense model is not compressed" not in missing


def test_rich_reads_no_markup_from_names(hostile_report):
    console = Console(file=io.StringIO(), width=200, color_system="truecolor", force_terminal=True)
    console.print(summary_table(hostile_report))
    assert "[bold]broken[/bold]" in console.file.getvalue()


def test_a_report_survives_json_with_values_that_are_not_finite(report):
    copy = RunReport.model_validate_json(report.model_dump_json())
    assert render_markdown(copy) == render_markdown(report)
    assert "not a number" in render_markdown(copy)
