"""Pages that say what to type, word for word: every block is followed in an empty folder, in order.

What a page marks as not run is left out, and `tests/docs/test_shown_commands.py` holds that it says why.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from harness.contract import DeviceKind
from orchestrator.images.catalog import ImageCatalog
from tests.docs.shown import ROOT, script
from tests.support.data_files import write_rows
from tests.support.environments import stand_in
from tests.support.task_rows import Row, made_rows

NEEDED = ("torch-transformers", "evaluate", "fetch")
FOLLOWED = {
    "a method": ("docs/adding-a-method.md", "docs/tutorials/beside-the-seven.md"),
    "a model": ("docs/tutorials/my-model.md",),
}
LOOKED_AT = (
    "docs/guides/gpus.md",
    "docs/guides/without-network.md",
    "docs/guides/reading-a-report.md",
    "docs/upgrading.md",
)
"""Guides whose commands run no stage."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the reader is: a model and a data folder are there, as a reader has them."""
    folder = tmp_path / "work"
    shutil.copytree(ROOT / "tests" / "zoo" / "llama-gqa-small", folder / "my-model")
    shutil.copytree(ROOT / "manifests", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("claims"))
    write_rows(folder / "data" / "wikitext2" / "test.jsonl.gz", made_rows("wikitext2", "test") * 40)
    write_rows(folder / "data" / "arc_easy" / "test.jsonl.gz", made_rows("arc_easy", "test") * 20)
    write_rows(folder / "data" / "c4" / "train_first1000.jsonl.gz", _documents())
    return folder


def _documents() -> list[Row]:
    """Each longer than a sequence to calibrate on."""
    lines = "".join(row["text"] for row in made_rows("wikitext2", "train"))
    return [{"text": f"{number} {lines * 4}"} for number in range(20)]


@pytest.fixture
def variables(tmp_path: Path, folder: Path) -> dict[str, str]:
    """`orchestrator` on PATH, and a store whose environments are this very one, so that nothing is installed."""
    catalog = ImageCatalog(ROOT / "images")
    for name in NEEDED:
        stand_in(folder / ".llmcbench", catalog.images[name], DeviceKind.CPU)
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "orchestrator"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator "$@"\n', encoding="ascii")
    command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMCBENCH_")}
    mine = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "LLMCBENCH_DATA": str(folder / "data")}
    return kept | mine


def follow(pages: tuple[str, ...], folder: Path, variables: dict[str, str]) -> str:
    text = "set -eu\n" + "".join(map(script, pages))
    done = subprocess.run(["bash", "-c", text], cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.minutes
@pytest.mark.skipif(shutil.which("jq") is None, reason="a part of the page needs jq")
def test_a_method_of_ones_own_is_added_and_stands_beside_the_seven(folder: Path, variables: dict[str, str]) -> None:
    shown = follow(FOLLOWED["a method"], folder, variables)
    assert ": FAIL: " not in shown
    assert "shrink compresses a tiny model" in shown
    first, second = sorted(folder.glob(".llmcbench/runs/*/report.md"), key=lambda path: path.parent.name, reverse=True)
    assert "shrink" in first.read_text("utf-8")
    beside = second.read_text("utf-8")
    methods = ("shrink", "magnitude", "wanda", "sparsegpt", "llm-pruner", "rtn", "gptq", "awq", "omniquant")
    assert [name for name in (*methods, "smoothquant") if f"| {name} | " not in beside] == []


@pytest.mark.slow
@pytest.mark.minutes
def test_a_model_of_ones_own_comes_to_a_decision(folder: Path, variables: dict[str, str]) -> None:
    shown = follow(FOLLOWED["a model"], folder, variables)
    assert "through transformers" in shown
    assert "gptq W4A16g64" in shown
    (report,) = folder.glob(".llmcbench/runs/*/report.html")
    assert "rtn" in report.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", LOOKED_AT)
def test_a_guide_can_be_followed(page: str, folder: Path, variables: dict[str, str]) -> None:
    """On a stored run of two models, without checkpoints. Every command of a page is a process of its own."""
    with tarfile.open(ROOT / "tests" / "stored_run" / "store.tar.gz") as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # not before Python 3.11.4
        packed.extractall(folder / ".llmcbench")  # noqa: S202  what this project packed
    assert follow((page,), folder, variables)
