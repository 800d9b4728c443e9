"""The contract's documents: what they accept, what they refuse, and that their published form is current."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.contract import (
    EVENT,
    REQUEST,
    ErrorCode,
    ExitCode,
    FileEntry,
    Setting,
    UnsafeTree,
    describe_tree,
    digest_tree,
)
from harness.contract.schema import SCHEMA_PATH, contract_schema

PROJECT = Path(__file__).parents[2]


def test_the_committed_schema_is_the_one_of_the_models() -> None:
    assert SCHEMA_PATH.read_text(encoding="utf-8") == contract_schema(), "run `make schema`"


@pytest.mark.parametrize(
    ("name", "sparsity", "zeros_of", "bits"),
    [
        ("50%", 0.5, None, (None, None, 0)),
        ("2:4", 0.5, (2, 4), (None, None, 0)),
        ("1:4", 0.25, (1, 4), (None, None, 0)),
        ("W4A16", None, None, (4, 16, 0)),
        ("W4A16g128", None, None, (4, 16, 128)),
    ],
)
def test_settings_are_read_by_their_short_names(
    name: str, sparsity: float | None, zeros_of: tuple[int, int] | None, bits: tuple[int | None, int | None, int]
) -> None:
    setting = Setting.parse(name)
    assert (setting.name, setting.sparsity, setting.zeros_of) == (name, sparsity, zeros_of)
    assert (setting.weight_bits, setting.activation_bits, setting.group_size) == bits


@pytest.mark.parametrize("name", ["", "half", "0%", "100%", "150%", "4:4", "0:4", "W4", "W0A16", "W4A16g", "2:4:8"])
def test_impossible_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"setting|greater"):
        Setting.parse(name)


def test_an_unknown_field_is_refused_and_a_default_is_filled_in() -> None:
    request = {"id": "x", "operation": "evaluate", "output": "/out", "parameters": {"task": "piqa"}}
    assert REQUEST.validate_python(request).model_dump()["parameters"]["processes"] == 1
    with pytest.raises(ValidationError, match="lmit"):
        REQUEST.validate_python({**request, "parameters": {"task": "piqa", "lmit": 3}})
    with pytest.raises(ValidationError, match="contract"):
        REQUEST.validate_python({**request, "contract": 2})


@given(st.text(), st.text())
def test_any_text_in_an_error_survives_one_line_of_json(message: str, hint: str) -> None:
    event = EVENT.validate_python({"event": "error", "code": "internal", "message": message, "hint": hint})
    line = event.model_dump_json()
    assert "\n" not in line
    assert EVENT.validate_json(line) == event


def test_every_error_code_has_one_exit_status_and_none_is_success() -> None:
    statuses = {code: code.exit_code for code in ErrorCode}
    assert statuses[ErrorCode.BAD_REQUEST] == ExitCode.BAD_REQUEST == 2
    assert statuses[ErrorCode.UNSUPPORTED] == ExitCode.UNSUPPORTED == 3
    assert statuses[ErrorCode.OUT_OF_MEMORY] == ExitCode.OUT_OF_MEMORY == 4
    assert statuses[ErrorCode.MISSING_DATA] == statuses[ErrorCode.INTERNAL] == ExitCode.INTERNAL == 5


def test_a_folder_is_described_by_names_and_contents_and_may_hold_no_link(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a").write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert describe_tree(tmp_path) == {"sub/a": FileEntry(size_bytes=3, sha256=sha256)}
    before = digest_tree(tmp_path)
    (tmp_path / "sub/a").rename(tmp_path / "sub/b")
    assert digest_tree(tmp_path) != before
    (tmp_path / "link").symlink_to("sub/b")
    with pytest.raises(UnsafeTree, match="link"):
        describe_tree(tmp_path)


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("harness.contract", ("torch", "transformers", "yaml", "harness.serve")),
        ("orchestrator.cli.app", ("torch", "transformers", "lm_eval", "harness.methods", "harness.serve")),
        ("orchestrator.run.setup", ("torch", "transformers", "harness.evaluation")),
    ],
)
def test_importing_a_side_of_the_contract_leaves_the_other_side_out(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.split() == []
