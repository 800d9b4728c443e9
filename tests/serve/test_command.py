"""The command `serve`: it says where, ends on an interruption, and explains what keeps it from serving."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import BadManifest, RuntimeUnavailable

PROJECT = Path(__file__).parents[2]


def _heed() -> None:
    """Undo what a shell does to its background jobs, which the tests may be one of."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", ["SIGINT", "SIGHUP"])
def test_it_prints_its_address_serves_and_ends_when_it_is_interrupted(tmp_path: Path, number: str) -> None:
    pytest.importorskip("uvicorn", reason="the extra serve is not installed: make setup")
    command = [sys.executable, "-m", "orchestrator", "serve", "--store", str(tmp_path / "none"), "--port", "0"]
    with subprocess.Popen(
        [*command, "--token"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        preexec_fn=_heed,
    ) as serving:
        assert serving.stdout is not None
        address = serving.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", address)
        with httpx.Client(follow_redirects=True, trust_env=False) as ask:
            assert "There is no store at" in ask.get(address).text
            assert ask.get(address.partition("?")[0]).status_code == 200
        serving.send_signal(getattr(signal, number))
        said = serving.communicate(timeout=60)[1]
    assert serving.returncode == 130
    assert said.splitlines()[0] == "error: the store is not served any more"
    assert "token" not in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith("orchestrator.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(RuntimeUnavailable) as refused:
        CliRunner().invoke(app, ["serve"], catch_exceptions=False)
    assert "llmcbench[serve]" in refused.value.hint


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the extra serve is not installed: make setup")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = ["serve", "--store", str(tmp_path), "--port", str(taken.getsockname()[1])]
        with pytest.raises(BadManifest, match="cannot be served on: Address already in use") as refused:
            CliRunner().invoke(app, command, catch_exceptions=False)
    assert "--port" in refused.value.hint
