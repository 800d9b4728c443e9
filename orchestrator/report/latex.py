"""The report's tables as a LaTeX document: what is in LaTeX's base alone, so that it compiles anywhere."""

from collections.abc import Iterable, Iterator

from orchestrator.report.formats import MISSING
from orchestrator.report.model import RunReport
from orchestrator.report.recommendation import recommendations
from orchestrator.report.table import Cell, Table
from orchestrator.report.view import View, view

_MOST_COLUMNS = 7
"""Beyond those that name the row; wider tables go on below."""
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "-": "{-}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    MISSING: "--",
    "\N{ALMOST EQUAL TO}": r"$\approx$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{DEGREE SIGN}": r"\textdegree{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    **{letter: f"\\{letter}" for letter in "#$%&_"},
}
_PREAMBLE = r"""\documentclass[a4paper,landscape]{article}
\usepackage[T1]{fontenc}
\usepackage[margin=12mm]{geometry}
\usepackage{longtable}
\usepackage{textcomp}
\setlength{\parindent}{0pt}
\setlength{\parskip}{4pt}
\setlength{\tabcolsep}{3pt}
\sloppy
\begin{document}
"""


def render_latex(report: RunReport, content: View | None = None) -> str:
    """A complete document: the answer, absolute values, overall metrics, each track, and the notes on missing figures.

    Of what LaTeX's base has no letter for, the number of the letter stands there.
    """
    content = content or view(report)
    blocks = [f"\\section*{{Benchmark report: {escape(report.run_id)}}}", *map(escape, recommendations(report))]
    blocks += map(escape, content.summary)
    tables = [content.absolute, content.overview]
    tables += [table for track in content.tracks for table in (track.scores, track.values)]
    blocks += [part for table in tables if table.rows for part in latex_table(table)]
    blocks += map(escape, (*content.candidates.notes, content.reading, *content.columns))
    blocks += latex_notes(content.footnotes)
    return document(blocks)


def document(blocks: Iterable[str]) -> str:
    """Blocks of LaTeX, such as those of `latex_table`, as a whole document."""
    return _PREAMBLE + "\n\n".join(blocks) + "\n\n\\end{document}\n"


def latex_notes(footnotes: Iterable[tuple[int, str]]) -> list[str]:
    return [f"[{number}] {escape(reason)}" for number, reason in footnotes]


def escape(text: str) -> str:
    """One line of plain text that LaTeX reads as it stands."""
    return "".join(map(_letter, " ".join(text.split())))


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    return letter if letter.isascii() and letter.isprintable() else f"[U+{ord(letter):04X}]"


def latex_table(table: Table) -> Iterator[str]:
    """Each heading and each part of the table that fits the page."""
    for part in table.split(_MOST_COLUMNS):
        yield f"\\subsection*{{{escape(part.title)}}}"
        yield "\n".join(_rows(part))


def _rows(table: Table) -> Iterator[str]:
    width = f"{0.9 / len(table.columns):.3f}\\textwidth"
    kinds = "".join("r" if column.is_number else f"p{{{width}}}" for column in table.columns)
    yield f"{{\\scriptsize\\begin{{longtable}}{{{kinds}}}"
    yield f"{_line(escape(column.title) for column in table.columns)} \\hline \\endhead"
    for row in table.rows:
        yield _line(_cell(cell) for cell in row)
    yield "\\end{longtable}}"


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    """A figure with what stands below it, one above the other; braces keep a bracket from being a height."""
    if not cell.below:
        return escape(cell.figure)
    lines = " \\\\{} ".join(map(escape, (cell.figure, *cell.below)))
    return f"\\shortstack[r]{{{lines}}}"
