"""The adapters of libraries that cannot be had, as container workers: the stand-ins come in as an input."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from harness.contract import BenchmarkParameters, BenchmarkResult, Device, DeviceKind, Operation, ResultEvent
from orchestrator.checks.probe import write_probe
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.engine import image_labels
from orchestrator.images.inputs import environment_tag
from orchestrator.run.verdict import judge
from orchestrator.runtime.base import Invocation
from orchestrator.runtime.docker import DockerRuntime
from orchestrator.stages import Limits
from orchestrator.store import Failure
from tests.support.containers import engine_or_skip, lack
from tests.support.every_image import write_every_image

PROJECT = Path(__file__).parents[2]
FAKES = PROJECT / "tests" / "support" / "vendor_fakes"
IMAGE = ImageCatalog(PROJECT / "images").images["transformers"]
"""The harness in it has every backend's adapter; which it offers is told by another description."""
DEADLINE_SECONDS = 600


@pytest.fixture(scope="module")
def runtime() -> DockerRuntime:
    if image_labels(engine_or_skip(), environment_tag(IMAGE, DeviceKind.CPU)) is None:
        lack("the image `transformers` is not built")
    ready = DockerRuntime()
    ready.prepare(IMAGE, DeviceKind.CPU, lambda note: None)
    return ready


@pytest.mark.docker
@pytest.mark.parametrize("backend", ["tensorrt-llm", "mlc-llm"])
def test_the_whole_contract_holds_around_an_engine_that_behaves_and_misbehaves(
    backend: str, runtime: DockerRuntime, tmp_path: Path
) -> None:
    write_probe(tmp_path / "checkpoint")
    described = tmp_path / "described"
    described.mkdir()
    write_every_image(described / "image.toml")

    def do(behaviour: str) -> ResultEvent | Failure:
        folder = tmp_path / behaviour.replace(",", "-")
        folder.mkdir()
        invocation = Invocation(
            image=IMAGE,
            operation=Operation.BENCHMARK,
            parameters=BenchmarkParameters(
                backend=backend, prompt_tokens=8, generate_tokens=5, batch_sizes=(1, 2), repeats=2
            ),
            folder=folder,
            stage="vendor",
            run="vendor",
            inputs={"checkpoint": tmp_path / "checkpoint", "fakes": FAKES, "described": described},
            device=Device(threads=1),
            limits=Limits(deadline_seconds=DEADLINE_SECONDS),
            environment={
                "PYTHONPATH": "/opt/llmcbench:/in/fakes",
                "FAKE_ENGINE": behaviour,
                "LLMCBENCH_IMAGE": "/in/described/image.toml",
            },
        )
        completed = runtime.run(invocation, lambda event: None, threading.Event())
        return judge(invocation, replace(completed, lifetime=None))  # a stand-in's token takes seconds that never pass

    served = do("noisy,slow")
    assert isinstance(served, ResultEvent), served
    assert isinstance(served.result, BenchmarkResult)
    assert served.result.backend == backend
    assert [speed.repeatable for speed in served.result.speeds] == [True, True]
    assert "[INFO] starting, from below Python" in (tmp_path / "noisy-slow" / "stderr.log").read_text()
    said = {behaviour: do(behaviour) for behaviour in ("short", "crash")}
    assert {behaviour: one.kind.value for behaviour, one in said.items() if isinstance(one, Failure)} == {
        "short": "internal",
        "crash": "crashed",
    }
