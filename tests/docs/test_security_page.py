"""Every line of the threat model names tests, and those are there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
HELD_BY = "held by"


def _lines() -> list[str]:
    """The rows of the tables whose last column says by which tests they are held."""
    found, inside = [], False
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.split("|")[-2].strip() == HELD_BY:
            inside = True
        elif inside and not line.startswith("| ---"):
            found.append(line)
    return found


@cache
def _tests_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("line", _lines(), ids=lambda line: line.split("|")[1].strip()[:50])
def test_a_line_of_the_threat_model_is_held_by_tests(line: str) -> None:
    held = line.split("|")[-2].strip()
    named = TEST.findall(held)
    assert named
    assert TEST.sub("", held).strip(" ,") == ""


def test_every_test_that_the_page_names_is_there() -> None:
    named = TEST.findall(PAGE)
    assert len(named) > len(_lines()) > 20
    assert [f"{path}::{name}" for path, name in named if name not in _tests_of(path)] == []


def test_every_test_of_the_hostile_image_is_named() -> None:
    of_the_image = {
        f"tests/runtime/test_hostile_image.py::{name}"
        for name in _tests_of("tests/runtime/test_hostile_image.py")
        if name.startswith("test_")
    }
    assert of_the_image <= {f"{path}::{name}" for path, name in TEST.findall(PAGE)}
