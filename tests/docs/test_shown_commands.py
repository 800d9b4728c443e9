"""Commands that pages show: what may be typed at all, and that each is run by a test or said not to be, and why."""

import re
import shlex
from typing import Any

import pytest
import typer

from orchestrator.cli.app import app
from tests.docs.shown import ROOT, blocks
from tests.docs.test_followed_pages import FOLLOWED, LOOKED_AT

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
GUIDES = [page for page in PAGES if page.startswith(("docs/tutorials/", "docs/guides/"))]
GUIDES += ["docs/adding-a-method.md", "docs/upgrading.md"]
RUN = {page for pages in FOLLOWED.values() for page in pages} | set(LOOKED_AT)
SHOWN = re.compile(r"(?:^|`) *(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?orchestrator ((?:[^`\n\\]|\\\n)+)", re.MULTILINE)
GROUPS = re.compile(r"[\[\]|…()]")


def test_a_tutorial_or_guide_is_followed_by_a_test() -> None:
    assert set(GUIDES) == RUN


@pytest.mark.parametrize("page", [*GUIDES, "docs/index.md"])
def test_a_block_without_a_language_hides_no_command(page: str) -> None:
    assert [block.text for block in blocks(page) if block.language == ""] == []


def test_the_home_page_says_why_its_commands_are_not_run() -> None:
    assert [block.not_run is not None for block in blocks("docs/index.md")] == [True]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_that_a_page_shows_is_there(page: str) -> None:
    shown = [block.text for block in blocks(page) if block.language in ("", "sh")]
    shown += re.findall(r"`(orchestrator [^`]+)`", (ROOT / page).read_text("utf-8"))
    for text in shown:
        for words in SHOWN.findall(text):
            check(words)


def check(shown: str) -> None:
    """The words after `orchestrator`, as far as they are a command's: up to an option's value, which is anybody's."""
    command: Any = typer.main.get_command(app)
    words = shlex.split(GROUPS.sub(" ", re.split(r"[|;&>#]| 2>", shown)[0].replace("\\\n", " ")), posix=False)
    while words and (inner := getattr(command, "commands", None)) is not None:
        if words[0].startswith("-") or words[0].isupper():
            break  # an option of the program itself, or COMMAND in general
        assert words[0] in inner, f"orchestrator {shown}: there is no command {words[0]!r}"
        command = inner[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options = [word.partition("=")[0].rstrip(".,") for word in words if re.match(r"--?[a-zA-Z]", word)]
    assert [option for option in options if option not in known | {"--help", "-h"}] == [], f"orchestrator {shown}"


@pytest.mark.parametrize("shown", ["rnu quick", "plan quick --summry", "images biuld", "score last --track 1 -x"])
def test_a_command_or_option_that_is_not_there_is_noticed(shown: str) -> None:
    with pytest.raises(AssertionError):
        check(shown)
