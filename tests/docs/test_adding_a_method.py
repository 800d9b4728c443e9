"""docs/adding-a-method.md, word for word: every block of it is followed in an empty folder, in order."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.contract import DeviceKind
from orchestrator.images.catalog import ImageCatalog
from tests.support.environments import stand_in

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-method.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\S+)\n")
NEEDED = ("torch-transformers", "evaluate", "fetch")


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """`orchestrator` on PATH, and a store whose environments are this very one, so that nothing is installed."""
    catalog = ImageCatalog(ROOT / "images")
    for name in NEEDED:
        stand_in(tmp_path / ".llmcbench", catalog.images[name], DeviceKind.CPU)
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "orchestrator"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator "$@"\n', encoding="ascii")
    command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMCBENCH_")}
    return kept | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="the page's last part needs jq")
def test_the_page_can_be_followed(tmp_path: Path, variables: dict[str, str]) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / ".llmcbench").rename(folder / ".llmcbench")
    script = ["set -eu"]
    for language, text in BLOCK.findall(PAGE):
        if language == "sh":
            script.append(text)
        else:
            named = FILE_NAME.match(text)
            assert named is not None
            script.append(f"cat > {named[1]} <<'END_OF_FILE'\n{text[named.end() :]}END_OF_FILE")
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": FAIL: " not in done.stdout
    assert "shrink compresses a tiny model" in done.stdout
    (report,) = folder.glob(".llmcbench/runs/*/report.md")
    assert "shrink" in report.read_text("utf-8")
