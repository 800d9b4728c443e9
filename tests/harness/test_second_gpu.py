"""Every operation on the second GPU of a host, and evaluations on both, by workers that are started seeing both.

    python -m pytest -m gpu tests/harness/test_second_gpu.py -v

No engine and no network is needed, but the libraries of the images' lock for CUDA in this environment.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.contract import (
    ARTIFACT_NAME,
    EVENT,
    VISIBLE_GPUS,
    BenchmarkResult,
    ErrorEvent,
    EvaluateResult,
    MethodDescription,
    ProfileResult,
    ResultEvent,
    Setting,
    WorkResult,
)
from orchestrator.host.gpus import find_gpus
from tests.support.offered import METHODS
from tests.support.small_checkpoints import publish_dataset
from tests.support.zoo import zoo_checkpoint

ROOT = Path(__file__).parents[2]
PEERS = "harness.methods.peers."
"""Modules of methods that need libraries of their own."""
NATIVE = ["dense", "sparsegpt", "gptq", "smoothquant"]
"""Dense, 2:4, W4A16 and W8A8: each has kernels of its own there."""
BATCH_SIZES = [1, 4]


def small_setting(method: MethodDescription) -> str:
    """2:4 where the method makes it, groups that the native kernels read, or what it does by itself."""
    usual = method.default_setting
    return "2:4" if "2:4" in method.patterns else "W4A16g32" if usual.startswith("W4A16") else usual


OWN = {
    name: small_setting(method)
    for name, method in METHODS.items()
    if method.module is not None and not method.module.startswith(PEERS)
}


class Host:
    """Work on `device`, by workers that are started by hand and see every GPU there is."""

    def __init__(self, folder: Path, uuids: tuple[str, ...]) -> None:
        self.folder = folder
        self.uuids = uuids
        self._made: dict[str, str] = {}
        rows = [{"text": f"On day {day} it rained {day * day} drops , and the river rose . " * 30} for day in range(40)]
        lines = [{"text": f" On day {day} it rained {day * day} drops , and the river rose .\n"} for day in range(900)]
        zoo_checkpoint("llama-mha", folder / "dense")
        self.inputs = {
            "calibration": str(publish_dataset(folder / "c4", "c4", {"train": rows})),
            "dataset": str(publish_dataset(folder / "wikitext2", "wikitext2", {"test": lines})),
        }

    @property
    def second(self) -> str:
        return self.uuids[1]

    def do(self, operation: str, checkpoint: str, parameters: dict[str, Any], *gpus: str) -> tuple[WorkResult, str]:
        """The result and the output folder."""
        output = self.folder / f"{operation}-{len(list(self.folder.iterdir()))}"
        output.mkdir()
        device = {"kind": "cuda", "uuids": gpus or (self.second,)}
        request = {"contract": 1, "id": "x", "operation": operation, "device": device, "output": str(output)}
        request |= {"inputs": self.inputs | {"checkpoint": checkpoint}, "parameters": parameters}
        done = subprocess.run(
            [sys.executable, "-m", "harness"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != VISIBLE_GPUS},
            check=False,
        )
        final = EVENT.validate_json(done.stdout.splitlines()[-1])
        assert not isinstance(final, ErrorEvent), f"{final.message} ({final.hint})\n{done.stderr[-3000:]}"
        assert isinstance(final, ResultEvent)
        assert final.result.operation != "describe"
        return final.result, str(output)

    def checkpoint(self, variant: str) -> str:
        """The folder of the dense model, or of what a method makes of it, once."""
        if variant == "dense":
            return str(self.folder / "dense")
        if variant not in self._made:
            parameters: dict[str, Any] = {"method": variant, "setting": Setting.parse(OWN[variant]).model_dump()}
            if METHODS[variant].calibration is not None:
                parameters["calibration"] = {"dataset": "c4", "samples": 8, "sequence_length": 64, "seed": 0}
            _, output = self.do("compress", str(self.folder / "dense"), parameters)
            self._made[variant] = str(Path(output, ARTIFACT_NAME))
        return self._made[variant]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    uuids = tuple(gpu.uuid for gpu in find_gpus())
    if len(uuids) < 2:
        pytest.skip("fewer than two GPUs are here")
    return Host(tmp_path_factory.mktemp("second"), uuids)


@pytest.mark.gpu
@pytest.mark.parametrize("method", sorted(OWN))
def test_every_method_compresses_there(host: Host, method: str) -> None:
    assert Path(host.checkpoint(method), "llmcbench.json").is_file()


@pytest.mark.gpu
@pytest.mark.parametrize("variant", NATIVE)
def test_memory_is_measured_there(host: Host, variant: str) -> None:
    result, _ = host.do("profile", host.checkpoint(variant), {"prompt_tokens": 32, "generate_tokens": 16})
    assert isinstance(result, ProfileResult)
    assert result.memory_parts is not None
    assert result.memory_parts.weight_bytes is not None
    assert result.memory.peak_memory_bytes > result.memory_parts.weight_bytes


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("backend", "variant", "options"),
    [
        ("transformers", "dense", {}),
        *(("native", variant, {"sparse": "auto"}) for variant in NATIVE),
        *(("native", variant, {"decoding": "graph"}) for variant in NATIVE),
    ],
)
def test_speed_is_measured_there(host: Host, backend: str, variant: str, options: dict[str, str]) -> None:
    sizes = {"prompt_tokens": 64, "generate_tokens": 32, "batch_sizes": BATCH_SIZES, "repeats": 4}
    result, _ = host.do(
        "benchmark", host.checkpoint(variant), {**sizes, "backend": backend, "options": options, "dtype": "float16"}
    )
    assert isinstance(result, BenchmarkResult)
    assert [speed.batch_size for speed in result.speeds] == BATCH_SIZES
    for speed in result.speeds:
        assert speed.telemetry is None or speed.telemetry.device_uuid == host.second
        assert len(set(speed.greedy_tokens)) > 1


@pytest.mark.gpu
@pytest.mark.parametrize("variant", NATIVE)
def test_an_evaluation_gives_the_same_there_on_the_first_and_on_both(host: Host, variant: str) -> None:
    perplexities = []
    for gpus in ((host.second,), host.uuids[:1], host.uuids[:2]):
        result, _ = host.do("evaluate", host.checkpoint(variant), {"task": "wikitext2-maxctx"}, *gpus)
        assert isinstance(result, EvaluateResult)
        assert result.cost is not None
        assert result.cost.processes == len(gpus)
        perplexities.append(result.metrics[result.metric])
    assert perplexities == pytest.approx([perplexities[0]] * 3, rel=0.01)
    assert perplexities[0] > 1
