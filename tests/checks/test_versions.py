"""The version comes from tags, also where there is no git, and no document names another one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.run import facts

ROOT = Path(__file__).parents[2]
FALLBACK = re.search(r'^fallback-version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
NAMED = ("README.md", "LICENSE", "pyproject.toml", ".git_archival.txt", ".gitattributes")


def git(folder: Path, *words: str) -> str:
    as_somebody = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *as_somebody, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def version(folder: Path) -> str:
    command = [sys.executable, "-m", "hatchling", "version"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of its own that builds as this one does, with one commit and no tag."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in NAMED:
        (folder / name).write_bytes((ROOT / name).read_bytes())
    git(folder, "init", "--quiet", ".")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


def test_a_tag_is_the_version_and_what_follows_is_on_the_way_to_the_next(checkout: Path) -> None:
    git(checkout, "tag", "v7.1.0")
    assert version(checkout) == "7.1.0"
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "more")
    assert version(checkout) == "7.1.1.dev1"


def test_an_archive_of_a_tag_has_its_version_without_git(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "tag", "v7.1.0")
    archive = tmp_path / "archive"
    archive.mkdir()
    git(checkout, "archive", "--output", str(tmp_path / "archive.tar"), "HEAD")
    subprocess.run(["tar", "-xf", tmp_path / "archive.tar", "-C", archive], check=True)
    assert version(archive) == "7.1.0"


def test_without_a_tag_it_is_what_the_project_is_on_the_way_to(checkout: Path, tmp_path: Path) -> None:
    assert FALLBACK is not None
    assert version(checkout).startswith(FALLBACK[1].removesuffix("0"))
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        (plain / name).write_bytes((ROOT / name).read_bytes())
    assert version(plain) == FALLBACK[1]


def test_changelog_and_citation_name_the_version_that_comes_next() -> None:
    assert FALLBACK is not None
    coming = FALLBACK[1].partition(".dev")[0]
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    cited = re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert [found and found[1] for found in (heading, cited)] == [coming, coming]


@pytest.mark.parametrize(
    ("installed", "recorded"), [("0.2.1.dev7", "0.2.1.dev0"), ("0.2.1", "0.2.1"), ("1.0rc1", "1.0rc1"), (None, None)]
)
def test_a_run_records_the_version_without_the_count_of_commits(
    installed: str | None, recorded: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "installed_version", lambda: installed)
    assert facts.program_version() == recorded
