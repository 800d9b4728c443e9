"""Dense exports: what is dequantized computes the same here, and says that it is no longer packed."""

from pathlib import Path

import pytest
import torch

from harness.checkpoint import read_config
from harness.contract import LayerWidthsExport
from harness.errors import BadRequest
from tests.exporting.export_requests import AWQ, DENSE, GPTQ, INT, PACK, export, logits
from tests.support.quantized_weights import Case, case, publish_quantized
from tests.support.tiny_checkpoints import tiny_tokens

TOKENS = tiny_tokens(2, 24)


@pytest.mark.parametrize(
    "stored",
    [
        case(PACK, 3, 16, symmetric=False),
        case(INT, 8, 0, symmetric=True, activation_bits=8),
        case(GPTQ, 8, 0, symmetric=True),
        case(AWQ, 4, 16, symmetric=False),
    ],
    ids=str,
)
def test_a_dequantized_checkpoint_computes_the_same_and_keeps_what_made_it(tmp_path: Path, stored: Case) -> None:
    source = tmp_path / "source"
    publish_quantized(source, "llama", stored)
    folder, descriptor = export(source, DENSE)
    assert torch.equal(logits(folder, TOKENS), logits(source, TOKENS))
    assert "quantization_config" not in read_config(folder)
    assert descriptor.exported is not None
    assert (descriptor.exported.exact, descriptor.exported.dequantized) == (False, True)
    assert descriptor.quantization == stored.quantization.model_copy(update={"simulated": True})
    assert any("size and speed are those of a dense model" in note for note in descriptor.notes)
    told = any("does not quantize the activations" in note for note in descriptor.notes)
    assert told is (stored.quantization.activation_bits < 16)


def test_options_of_dense_targets_are_refused_elsewhere(tmp_path: Path) -> None:
    publish_quantized(tmp_path / "source", "llama", case(PACK, 4, 16, symmetric=True))
    with pytest.raises(BadRequest, match="for dense targets"):
        export(tmp_path / "source", GPTQ, layers=LayerWidthsExport.PADDED)
