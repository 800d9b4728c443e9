"""Whole compress requests on tiny models, as every method's tests make them."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.contract import Calibration, CompressParameters, CompressRequest, Device, Setting
from harness.contract.claims import count_claims
from harness.methods import run
from harness.models.loading import load_model
from harness.reporter import Reporter
from tests.support.offered import METHODS
from tests.support.tiny_checkpoints import publish_rows, tiny_text

SAMPLES, LENGTH = 6, 16


def parameters_of(method: str, setting: str, *, length: int = LENGTH, **options: Any) -> CompressParameters:
    """As a plan would ask; for a method that looks at weights alone without calibration."""
    text = Calibration(dataset="c4", samples=SAMPLES, sequence_length=length, seed=0)
    return CompressParameters(
        method=method,
        setting=Setting.parse(setting),
        calibration=text if calibrates(method) else None,
        options=options,
    )


def calibrates(method: str) -> bool:
    return METHODS[method].calibration is not None


class Requests:
    """Requests to one method, on the checkpoint `<folder>/model`; each call has an output folder of its own."""

    def __init__(self, method: str, folder: Path) -> None:
        self._method = method
        self._folder = folder
        self._runs = 0
        publish_rows(folder / "c4", "c4", [{"text": tiny_text(30, seed)} for seed in range(20)])

    def __call__(self, setting, *, length=LENGTH, output=None, stream=None, **options):
        """Return the result, the artifact's folder and the events, which are written to `stream`."""
        if output is None:
            output = self.new_output()
        request = CompressRequest(
            id="request",
            device=Device(threads=1),
            inputs={"checkpoint": str(self._folder / "model")} | self._text(),
            output=str(output),
            parameters=parameters_of(self._method, setting, length=length, **options),
        )
        events = stream or io.StringIO()
        result = run(request, Reporter(events))
        assert count_claims(output / "artifact", result.artifact).untrue == (), "what is said of weights can be counted"
        return result, output / "artifact", [json.loads(line) for line in events.getvalue().splitlines()]

    def _text(self) -> dict[str, str]:
        return {"calibration": str(self._folder / "c4")} if calibrates(self._method) else {}

    def new_output(self) -> Path:
        self._runs += 1
        output = self._folder / f"out{self._runs}"
        output.mkdir()
        return output


def keep_models(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """The models that requests load from now on: after a request, the compressed model as it is in memory."""
    from harness.methods import job

    models: list[torch.nn.Module] = []
    plain = job.load_model

    def load(*arguments, **keywords):
        loaded = plain(*arguments, **keywords)
        models.append(loaded.model)
        return loaded

    monkeypatch.setattr(job, "load_model", load)
    return models


def logits_of(artifact: Path, tokens: torch.Tensor) -> torch.Tensor:
    """What the stored checkpoint computes, loaded as the evaluation loads it."""
    with torch.no_grad():
        return load_model(artifact, Device(threads=1)).model(tokens).logits


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}
