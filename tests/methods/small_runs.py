"""Compressing a tiny model: directly, or as a whole request that may be interrupted."""

import io
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from harness.architectures.blocks import decoder_blocks
from harness.checkpoint import open_checkpoint
from harness.contract import Calibration, CompressParameters, CompressRequest, CompressResult, Device, Dtype, Setting
from harness.methods import run
from harness.methods.base import CompressionContext, Outcome
from harness.methods.job import parse_request
from harness.methods.skeleton.finished import FinishedBlocks
from harness.models.loading import TORCH_DTYPES, LoadedModel, load_model
from harness.reporter import Reporter
from tests.support.tiny_checkpoints import publish_model, publish_rows, tiny_text

SAMPLES, LENGTH = 6, 16


def parameters(method: str, setting: str, length: int = LENGTH, **options: Any) -> CompressParameters:
    calibration = Calibration(dataset="c4", samples=SAMPLES, sequence_length=length, seed=0)
    return CompressParameters(method=method, setting=Setting.parse(setting), calibration=calibration, options=options)


def compress_in_place(
    model: PreTrainedModel,
    sequences: torch.Tensor | list[torch.Tensor],
    folder: Path,
    method: str,
    setting: str,
    storage: Dtype = Dtype.FLOAT32,
    **options: Any,
) -> tuple[Outcome, FinishedBlocks]:
    """Compress `model` on these sequences without a request; what becomes of its blocks is kept in `folder`."""
    compressor = parse_request(parameters(method, setting, **options))
    blocks = decoder_blocks(model)
    compressor.check(blocks)
    with FinishedBlocks(folder, "a test", TORCH_DTYPES[storage]) as finished:
        context = CompressionContext(
            model=model,
            tokenizer=None,
            blocks=blocks,
            sequences=tuple(sequences),
            device=torch.device("cpu"),
            storage_dtype=storage,
            reporter=Reporter(io.StringIO()),
            finished=finished,
            source=folder,
            inputs={},
        )
        outcome = compressor.compress(context)
        finished.wait()
    return outcome, finished


class Bench:
    """A published model and calibration text in `folder`, to be compressed by whole requests."""

    def __init__(self, folder: Path, model: PreTrainedModel, dtype: Dtype = Dtype.BFLOAT16) -> None:
        self._folder = folder
        self.parent = publish_model(folder / "model", model, dtype)
        publish_rows(folder / "c4", "c4", [{"text": tiny_text(30, seed)} for seed in range(20)])

    def compress(self, method: str, setting: str, output: str = "out", **options: Any) -> CompressResult:
        """Into `<output>/artifact`; in a folder where an earlier attempt failed, the request goes on from there."""
        (self._folder / output).mkdir(exist_ok=True)
        request = CompressRequest(
            id="request",
            device=Device(threads=1),
            inputs={"checkpoint": str(self._folder / "model"), "calibration": str(self._folder / "c4")},
            output=str(self._folder / output),
            parameters=parameters(method, setting, **options),
        )
        result = run(request, Reporter(io.StringIO()))
        assert result.artifact == open_checkpoint(self._folder / output / "artifact", verify=True)
        return result

    def load(self, output: str = "out") -> LoadedModel:
        return load_model(self._folder / output / "artifact", Device(threads=1), Dtype.FLOAT32)
