"""Whole export requests, as the tests of every target make them."""

from pathlib import Path

import torch

from harness.contract import CheckpointDescriptor, CheckpointFormat, Device, ExportParameters, ExportRequest
from harness.contract.claims import count_claims
from harness.exporting import run
from harness.models.loading import load_model
from tests.support.small_checkpoints import Recorder

PACK, INT = CheckpointFormat.PACK_QUANTIZED, CheckpointFormat.INT_QUANTIZED
GPTQ, AWQ = CheckpointFormat.GPTQ, CheckpointFormat.AWQ
MODELOPT_AWQ, MODELOPT_FP8 = CheckpointFormat.MODELOPT_AWQ, CheckpointFormat.MODELOPT_FP8
DENSE = CheckpointFormat.DENSE


def export(checkpoint: Path, target: CheckpointFormat, **parameters: object) -> tuple[Path, CheckpointDescriptor]:
    """The new artifact's folder and descriptor, of which all is true that can be counted."""
    output = checkpoint.with_name(f"{checkpoint.name}-{target.name}-{len(list(checkpoint.parent.iterdir()))}")
    output.mkdir()
    request = ExportRequest(
        id="export",
        inputs={"checkpoint": str(checkpoint)},
        output=str(output),
        parameters=ExportParameters.model_validate({"target": target, **parameters}),
    )
    made = run(request, Recorder().reporter).artifact
    assert count_claims(output / "artifact", made).untrue == ()
    return output / "artifact", made


def logits(checkpoint: Path, tokens: torch.Tensor) -> torch.Tensor:
    """What the checkpoint computes in float32, loaded as the evaluation loads it."""
    with torch.no_grad():
        return load_model(checkpoint, Device(threads=1)).model(tokens).logits
