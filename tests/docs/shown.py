"""The blocks that a page shows: which are commands and files, and which the page says are not run, and why."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (\S.*?) -->\s*\Z", re.DOTALL)
_FILE_NAME = re.compile(r"# (\S+)\n")


@dataclass(frozen=True)
class Block:
    """A fenced block. `not_run` is the reason, where a comment right above it gives one."""

    language: str
    text: str
    not_run: str | None


def blocks(page: str) -> list[Block]:
    """Those of a page, by its path in the project, in order."""
    text = (ROOT / page).read_text("utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        above = _NOT_RUN.search(text[: match.start()])
        found.append(Block(match[2], match[3], above[1] if above else None))
    return found


def script(page: str) -> str:
    """A shell script that does what the page says: files are written, commands run, in order."""
    lines = []
    for block in blocks(page):
        if block.not_run is not None:
            continue
        if block.language == "sh":
            lines.append(block.text)
        elif (named := _FILE_NAME.match(block.text)) is not None:
            lines.append(f"cat > {named[1]} <<'END_OF_FILE'\n{block.text[named.end() :]}END_OF_FILE\n")
    return "".join(lines)
