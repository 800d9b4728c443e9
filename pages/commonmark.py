"""Lists as Python-Markdown wants them, indented by four columns, where CommonMark takes the width of the mark."""

import re

_FENCE = re.compile(r"^\s*(```|~~~)")
_ITEM = re.compile(r"^(\s*)(?:[-*]|\d+\.)\s")
_COLUMNS = 4


def indented(markdown: str) -> str:
    """The text with what belongs to a list's item a multiple of four columns in; fenced blocks move as a whole."""
    lines: list[str] = []
    levels: list[int] = []  # where the contents of the open items begin, outermost first
    fence: int | None = None
    for line in markdown.splitlines():
        spaces = len(line) - len(line.lstrip())
        if fence is not None:
            lines.append(line[min(spaces, fence) :] and " " * (_COLUMNS * len(levels)) + line[min(spaces, fence) :])
            fence = None if _FENCE.match(line) else fence
            continue
        if not line.strip():
            lines.append("")
            continue
        levels = _open(levels, spaces)
        if item := _ITEM.match(line):
            lines.append(" " * (_COLUMNS * len(levels)) + line.lstrip())
            levels.append(item.end())
            continue
        lines.append(" " * (_COLUMNS * len(levels)) + line.lstrip() if levels else line)
        fence = spaces if _FENCE.match(line) else None
    return "\n".join(lines) + "\n"


def _open(levels: list[int], spaces: int) -> list[int]:
    """The items that a line so far in belongs to."""
    return [start for start in levels if spaces >= start]
