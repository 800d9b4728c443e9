"""The pages that list what the code has, held against the code; and links between pages."""

import re
from pathlib import Path

import pytest

from harness.contract import ErrorCode, Reason
from orchestrator.errors import CommandExit
from orchestrator.store import FailureKind

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "images").glob("*/README.md")])
OWN_VARIABLE = re.compile(r"\bLLMCBENCH_(?!TEST_)[A-Z_]*[A-Z]\b")
"""But for those by which one process of a test tells another something."""
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
NAMED_FILE = re.compile(
    r"`(docs/(?:methods/|guides/|tutorials/|reference/)?[\w-]+\.md|(?:harness|images|manifests|orchestrator|pages|tests|benchmarks)/[\w./-]+\.\w+)`"
)


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text("utf-8")


def rows(page: str) -> dict[str, str]:
    """Each name in the first cell of a table's row, with the whole row."""
    found = {}
    for line in text_of(page).splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            first = line.split("|")[1]
            found |= dict.fromkeys([name.strip() for name in first.replace("`", "").split(",")], line)
    return found


def test_every_variable_of_ours_is_on_the_page_and_every_one_on_the_page_is_used() -> None:
    sources = [*ROOT.glob("harness/**/*.py"), *ROOT.glob("orchestrator/**/*.py"), *ROOT.glob("tests/**/*.py")]
    texts = [path.read_text("utf-8") for path in sources if path != Path(__file__)]
    used = {name for text in texts for name in OWN_VARIABLE.findall(text)}
    assert used == set(OWN_VARIABLE.findall(text_of("environment-variables.md")))


@pytest.mark.parametrize("status", CommandExit)
def test_every_exit_status_of_the_command_is_explained(status: CommandExit) -> None:
    assert str(int(status)) in rows("errors.md")


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_is_explained_with_its_exit_status(code: ErrorCode) -> None:
    row = next(line for line in text_of("errors.md").splitlines() if line.startswith(f"| `{code.value}` |"))
    assert row.split("|")[2].strip() == str(int(code.exit_code))


@pytest.mark.parametrize("name", [*Reason, *FailureKind])
def test_every_reason_and_every_kind_of_failure_is_explained(name: Reason | FailureKind) -> None:
    assert name.value in rows("errors.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_or_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]
    assert [target for target in links if not (page.parent / target).exists()] == []
    assert [name for name in NAMED_FILE.findall(text) if not (ROOT / name).exists()] == []


def test_every_decision_has_a_number_of_its_own_and_none_is_left_out() -> None:
    numbers = [int(found) for found in re.findall(r"^(?:\*\*)?(\d+)\. ", text_of("decisions.md"), re.MULTILINE)]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
