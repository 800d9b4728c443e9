"""The adapters of both libraries as workers of their own, over stand-ins: what reaches the orchestrator."""

import json
from pathlib import Path

import pytest

from harness.contract import BenchmarkResult, ErrorEvent, ResultEvent
from tests.support.small_checkpoints import publish_checkpoint, small_model
from tests.support.vendor_engines import VendorEngine, benchmark_request, install, work

MLC_LLM = pytest.param("mlc-llm", marks=pytest.mark.slow)
"""Converts and compiles in programs of its own, each of which imports torch."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return publish_checkpoint(tmp_path / "model", small_model("llama"))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VendorEngine:
    return install(monkeypatch, tmp_path)


@pytest.mark.parametrize("backend", ["tensorrt-llm", MLC_LLM])
def test_a_noisy_and_slow_engine_leaves_stdout_to_the_events(
    backend: str, checkpoint: Path, engine: VendorEngine, tmp_path: Path
) -> None:
    engine.behave("noisy", "slow")
    ended = work(benchmark_request(checkpoint, backend=backend), tmp_path)
    assert json.loads(ended.lines[0])["event"] == "started"
    assert isinstance(ended.final, ResultEvent)
    assert isinstance(ended.final.result, BenchmarkResult)
    assert ended.status == 0
    assert "[fake][INFO] starting, from below Python" in ended.stderr
    assert ended.final.result.load_seconds >= 1.0
    assert [(one.batch_size, len(one.samples)) for one in ended.final.result.speeds] == [(1, 2), (3, 2)]
    assert ended.final.result.notes[0].startswith("not run by us")
    assert not list((tmp_path / "out").glob("*llm*"))


@pytest.mark.parametrize(
    ("backend", "death"),
    [
        pytest.param("tensorrt-llm", "crash", marks=pytest.mark.slow),
        ("tensorrt-llm", "die"),
        pytest.param("mlc-llm", "die", marks=pytest.mark.slow),
    ],
)
def test_an_engine_that_dies_in_native_code_leaves_no_result(
    backend: str, death: str, checkpoint: Path, engine: VendorEngine, tmp_path: Path
) -> None:
    """A crash at the start is the same for both; each dies in its own way while it works."""
    engine.behave(death)
    ended = work(benchmark_request(checkpoint, backend=backend), tmp_path)
    assert ended.status < 0
    assert not any(json.loads(line)["event"] in ("result", "error") for line in ended.lines)


@pytest.mark.parametrize("backend", ["tensorrt-llm", MLC_LLM])
def test_a_wrong_count_of_tokens_is_an_error_with_its_status(
    backend: str, checkpoint: Path, engine: VendorEngine, tmp_path: Path
) -> None:
    engine.behave("short")
    ended = work(benchmark_request(checkpoint, backend=backend), tmp_path)
    assert isinstance(ended.final, ErrorEvent)
    assert ended.status == ended.final.code.exit_code
    assert f"{backend} generated (4,) tokens, not 5" in ended.final.message
