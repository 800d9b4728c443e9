"""The image's own list of exports, and a request to the worker as the orchestrator makes it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from harness.checkpoint import open_checkpoint
from harness.contract import (
    EVENT,
    Calibration,
    CompressParameters,
    CompressRequest,
    Device,
    ExportDescription,
    ImageDescription,
    LayerWidthsExport,
    ResultEvent,
    Setting,
)
from harness.methods import run as compress
from tests.exporting.export_requests import AWQ, DENSE, GPTQ, INT, MODELOPT_AWQ, PACK, export, logits
from tests.support.quantized_weights import case, publish_quantized
from tests.support.small_checkpoints import Recorder, publish_dataset
from tests.support.zoo import zoo_checkpoint

PROJECT = Path(__file__).parents[2]
IMAGE = PROJECT / "images" / "export" / "image.toml"
OFFERED = ImageDescription.model_validate(tomllib.loads(IMAGE.read_text(encoding="utf-8"))).exports
STORED = {
    PACK: case(PACK, 4, 64, symmetric=True),
    INT: case(INT, 8, 0, symmetric=True, activation_bits=8),
    GPTQ: case(GPTQ, 4, 64, symmetric=True),
    AWQ: case(AWQ, 4, 64, symmetric=True),
}


@pytest.mark.parametrize("offered", OFFERED, ids=lambda one: f"{one.source.name}-{one.target.name}-{one.layers.value}")
def test_every_export_that_the_image_offers_is_made_and_as_exact_as_it_says(
    tmp_path: Path, offered: ExportDescription
) -> None:
    source = tmp_path / "source"
    publish_quantized(source, "llama-wide", STORED.get(offered.source, STORED[PACK]))
    if offered.source is DENSE:
        source = tmp_path / "source.dense"
    elif offered.source is MODELOPT_AWQ:
        source, _ = export(source, MODELOPT_AWQ)
    _, descriptor = export(source, offered.target, layers=offered.layers)
    assert descriptor.format is offered.target
    assert descriptor.exported is not None
    assert descriptor.exported.exact is offered.exact


def test_no_two_exports_are_the_same_and_only_exact_ones_give_packed_integers() -> None:
    pairs = [(one.source, one.target, one.layers) for one in OFFERED]
    assert len(set(pairs)) == len(pairs)
    assert all(one.exact for one in OFFERED if one.target in (PACK, GPTQ, AWQ, MODELOPT_AWQ))
    assert all(one.source is DENSE for one in OFFERED if one.layers is not LayerWidthsExport.KEPT)


@pytest.mark.slow
def test_a_worker_exports_a_compressed_model_of_the_zoo(tmp_path: Path) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "model")
    text = " ".join(f"word {number}" for number in range(400))
    publish_dataset(tmp_path / "c4", "c4", {"train": [{"text": text}] * 8})
    (tmp_path / "compressed").mkdir()
    made = compress(
        CompressRequest(
            id="compress",
            device=Device(threads=1),
            inputs={"checkpoint": str(tmp_path / "model"), "calibration": str(tmp_path / "c4")},
            output=str(tmp_path / "compressed"),
            parameters=CompressParameters(
                method="gptq",
                setting=Setting.parse("W4A16g32"),
                calibration=Calibration(dataset="c4", samples=2, sequence_length=32, seed=0),
            ),
        ),
        Recorder().reporter,
    ).artifact
    (tmp_path / "out").mkdir()
    request = {
        "contract": 1,
        "id": "export/llama/gptq",
        "operation": "export",
        "inputs": {"checkpoint": str(tmp_path / "compressed" / "artifact")},
        "output": str(tmp_path / "out"),
        "parameters": {"target": "gptq"},
    }
    done = subprocess.run(
        [sys.executable, "-m", "harness"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**os.environ, "LLMCBENCH_IMAGE": str(IMAGE)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = [EVENT.validate_json(line) for line in done.stdout.splitlines()]
    final = events[-1]
    assert isinstance(final, ResultEvent)
    assert final.result.operation == "export"
    assert final.result.linears == 28
    folder = tmp_path / "out" / "artifact"
    descriptor = open_checkpoint(folder, verify=True)
    assert descriptor == final.result.artifact
    assert descriptor.exported is not None
    assert (descriptor.exported.source, descriptor.parent) == (made.digest, made.parent)
    assert (descriptor.method, descriptor.setting) == ("gptq", "W4A16g32")
    tokens = torch.arange(48).reshape(2, 24)
    assert torch.equal(logits(folder, tokens), logits(tmp_path / "compressed" / "artifact", tokens))
