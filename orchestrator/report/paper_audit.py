"""What comes of recomputing the paper's tables, as a page: docs/paper-audit.md."""

from collections import Counter
from collections.abc import Iterable

from orchestrator.score.paper import (
    PaperRow,
    Verdict,
    column_protocols,
    load_tables,
    suspicious_cells,
    suspicious_columns,
    verify,
    verify_table,
)

_HEAD = """# The paper's audit

Every overall metric that the LLMCBench paper prints, recomputed from the cells that it prints beside it by the
functions that score a run. The tables are data in `orchestrator/score/paper/`, each with its source; this page is
written by `orchestrator paper --format markdown`, and a test holds it against them. What is in doubt is used as it
stands, and named; nothing is fitted to it.
"""

_MEANINGS = {
    Verdict.REPRODUCED: "equal to the second decimal",
    Verdict.ROUNDING: "not that, but within what the printed digits leave open, see the tolerance of each table",
    Verdict.INCONSISTENT: "outside it: the metric, or a cell beside it, is wrong",
}


def audit_page() -> str:
    """The whole page, as Markdown."""
    sections = (_summary(), _misprints(), *_tables(), _protocols(), _cells(), _columns())
    return "\n\n".join([_HEAD.rstrip(), *sections]) + "\n"


def _summary() -> str:
    rows = verify()
    counts = Counter(row.verdict for row in rows)
    lines = [f"| `{verdict.value}` | {counts[verdict]} | {meaning} |" for verdict, meaning in _MEANINGS.items()]
    table = _table(("verdict", "of " + str(len(rows)), "means"), lines)
    return table + (
        "\n\nA rounding explains a metric where moving every cell that it is made of by half its last digit can reach "
        "what is printed."
    )


def _misprints() -> str:
    wrong = [row for row in verify() if row.verdict is Verdict.INCONSISTENT]
    lines = [
        f"| {_short(row.source)} | {row.score} | {_variant(row)} "
        f"| {row.published:.2f} | {row.recomputed:.2f} | {row.note} |"
        for row in wrong
    ]
    return "## Misprints\n\n" + _table(("table", "metric", "variant", "printed", "recomputed", "note"), lines)


def _tables() -> Iterable[str]:
    for table in load_tables().values():
        rows = verify_table(table)
        notes = "".join(f"\n- {note}" for note in table.notes)
        tolerance = (
            f"Tolerance: {_bound(table.tolerance.absolute, table.tolerance.relative)}; {table.tolerance.reason}."
        )
        heading = f"## {_short(table.source)}: track {int(table.track)}"
        text = tolerance if rows else "No overall metric is printed."
        lines = [
            f"| {row.score} | {_variant(row)} | {row.published:.2f} | {row.recomputed:.2f} "
            f"| {round(row.difference, 2) + 0.0:+.2f} | `{row.verdict.value}` "
            f"| {'yes' if row.rounding_explains else 'no'} |"
            for row in rows
        ]
        head = ("metric", "variant", "printed", "recomputed", "difference", "verdict", "rounding explains it")
        parts = [heading, text, notes.strip(), _table(head, lines) if rows else ""]
        yield "\n\n".join(filter(None, parts))


def _bound(absolute: float, relative: float) -> str:
    return f"{relative:.1%} of what is printed" if relative else f"{absolute:g}"


def _protocols() -> str:
    lines = [
        f"| {', '.join(one.tables)} | {', '.join(f'`{name}`' for name in one.columns)} | {one.protocol} | {one.here} |"
        for one in column_protocols()
    ]
    return (
        "## Protocols behind the columns\n\n"
        "As far as the paper, its published code and the figures themselves show them; "
        "[protocols](protocols.md) has those of this project.\n\n"
        + _table(("table", "columns", "how the paper took them", "nearest here"), lines)
    )


def _cells() -> str:
    lines = [
        f"| {cell.table} | {cell.model} | {cell.method} {cell.setting} | `{cell.column}` "
        f"| {cell.value:g} | {cell.reason} |"
        for cell in suspicious_cells()
    ]
    return "## Cells in doubt\n\n" + _table(("table", "model", "variant", "column", "printed", "why"), lines)


def _columns() -> str:
    lines = [
        f"| {column.table} | `{column.column}` | {', '.join(column.models)} | {column.reason} |"
        for column in suspicious_columns()
    ]
    return "## Columns in doubt\n\n" + _table(("table", "column", "models", "why"), lines)


def _short(source: str) -> str:
    return source.removeprefix("LLMCBench (NeurIPS 2024), ")


def _variant(row: PaperRow) -> str:
    return f"{row.method} {row.setting}".strip()


def _table(head: tuple[str, ...], lines: Iterable[str]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines])
