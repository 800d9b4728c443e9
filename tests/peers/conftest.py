"""Tiny models, calibration text and whole requests for the adapters of other libraries."""

import io
import json
import tomllib
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from harness.checkpoint import open_checkpoint
from harness.contract import Calibration, CompressParameters, CompressRequest, Device, ImageDescription, Setting
from harness.methods import run
from harness.models.loading import load_model
from harness.reporter import Reporter
from tests.support.tiny_checkpoints import publish_model, publish_rows, tiny_model, tiny_text, tiny_tokens

SAMPLES, LENGTH = 8, 16


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """The libraries ask the hub about models that lie in folders."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def parameters():
    """The parameters of a request, from its method, setting and options."""

    def make(method, setting, **options):
        return CompressParameters(
            method=method,
            setting=Setting.parse(setting),
            calibration=Calibration(dataset="c4", samples=SAMPLES, sequence_length=LENGTH, seed=0),
            options=options,
        )

    return make


@pytest.fixture
def image_methods():
    """The methods that an image of this project says it offers."""

    def read(name):
        path = Path(__file__).parents[2] / "images" / name / "image.toml"
        return ImageDescription.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).methods

    return read


@pytest.fixture
def compress(tmp_path, parameters):
    """Publish a tiny model of a family and compress it; returns the result, the artifact's folder and the events."""
    publish_rows(tmp_path / "c4", "c4", [{"text": tiny_text(30, seed)} for seed in range(20)])
    runs = iter(range(100))

    def work(method, setting, family="llama", **options):
        source, output = tmp_path / family, tmp_path / f"out{next(runs)}"
        if not source.exists():
            publish_model(source, tiny_model(family))
        output.mkdir()
        request = CompressRequest(
            id="request",
            device=Device(threads=1),
            inputs={"checkpoint": str(source), "calibration": str(tmp_path / "c4")},
            output=str(output),
            parameters=parameters(method, setting, **options),
        )
        events = io.StringIO()
        result = run(request, Reporter(events))
        open_checkpoint(output / "artifact", verify=True)
        return result, output / "artifact", [json.loads(line) for line in events.getvalue().splitlines()]

    return work


@pytest.fixture
def drift(tmp_path):
    """How far an artifact's logits are from its parent's, relative to them, in this project's own evaluator."""

    def measure(artifact, family="llama"):
        tokens = tiny_tokens(4, LENGTH, seed=9)
        with torch.no_grad():
            dense = load_model(tmp_path / family, Device(threads=1)).model(tokens).logits
            compressed = load_model(artifact, Device(threads=1)).model(tokens).logits
        return float((compressed - dense).norm() / dense.norm())

    return measure
