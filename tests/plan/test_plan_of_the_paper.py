"""What running the whole paper on an H200 comes to, for whoever has none: a page that is looked at when it changes.

    LLMCBENCH_DATA= orchestrator plan full --device cuda:H200 --summary --store none > tests/plan/full-on-an-h200.txt

writes it anew, once its differences are what was meant.
"""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.run import setup

PAGE = Path(__file__).with_name("full-on-an-h200.txt")


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The lines of a summary, made on a host with neither a GPU, nor data, nor a hub."""
    monkeypatch.setenv("LLMCBENCH_DATA", "")
    monkeypatch.setattr(setup, "model_config", lambda repository, revision: None)

    def plan(*words: str) -> list[str]:
        shown = CliRunner().invoke(app, ["plan", *words, "--summary", "--store", str(tmp_path / "none")])
        assert shown.exit_code == 0, shown.stderr
        return shown.stdout.splitlines()

    return plan


def test_the_plan_of_the_whole_paper_is_the_one_that_was_looked_at(planned) -> None:
    assert planned("full", "--device", "cuda:H200") == PAGE.read_text("utf-8").splitlines()


def test_models_that_a_gpu_cannot_hold_are_named(planned) -> None:
    (memory,) = [line for line in planned("paper-int8", "--gpu-memory", "80GiB") if "GPU memory" in line]
    assert "131.4 GiB of weights (llama3-70b" in memory
    assert memory.endswith(
        "too large for it: llama-65b, llama2-70b, llama3-70b: these can be compressed there, and neither"
        " evaluated, profiled nor timed"
    )


def test_each_stage_is_planned_for_whichever_gpu_is_free(planned) -> None:
    assert any(
        "8 x NVIDIA H200 with 141 GiB each" in line and "each stage on whichever is free" in line
        for line in planned("paper-vicuna", "--device", "cuda:H200", "--devices", "8")
    )
