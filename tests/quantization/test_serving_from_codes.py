"""A quantized checkpoint served from its codes gives what it gives dequantized, or says why it cannot."""

from pathlib import Path

import pytest
import torch

from harness.backends.native.fused_blocks import fuse
from harness.backends.native.integer_serving import obstacle, use_codes
from harness.backends.native.opened_model import dequantized_because, open_model
from harness.checkpoint import open_checkpoint
from harness.contract import Device, Dtype
from harness.kernels.integer.linears import Int8Linear
from harness.models.loading import load_model, packed_format
from harness.models.packed import QuantizedLinears
from tests.support.quantized_weights import CASES, INT, PACK, Case, case, publish_quantized

TOKENS = torch.arange(3, 19).view(2, 8)


@pytest.mark.parametrize("joined", [False, True])
def test_8_bit_products_give_the_logits_of_the_simulation(tmp_path: Path, joined: bool) -> None:
    publish_quantized(tmp_path / "model", "llama", case(INT, 8, 0, True, activation_bits=8))
    simulated = load_model(tmp_path / "model", Device())
    loaded = load_model(tmp_path / "model", Device(), in_host=True, linears_empty=True)
    if joined:
        fuse(loaded.model)
    packed = packed_format(tmp_path / "model", loaded.descriptor)
    with QuantizedLinears.open(tmp_path / "model", packed) as stored, torch.no_grad():
        for name in stored.names:  # as exact as the integers: a loaded weight was rounded to the checkpoint's dtype
            simulated.model.get_submodule(name).weight.copy_(stored.read(name).dequantize(torch.float32))
    note = use_codes(loaded.model, tmp_path / "model", packed, torch.float32)
    layers = [part for part in loaded.model.modules() if isinstance(part, Int8Linear)]
    blocks = len(loaded.model.model.layers)
    assert len(layers) == blocks * (4 if joined else 7)
    assert note == f"{len(layers)} linears computed from their codes by products of 8-bit integers"
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(TOKENS).logits, simulated.model(TOKENS).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("stored", "dtype", "reason"),
    [
        (case(PACK, 4, 16, True), torch.float16, "groups of 16"),
        (case(PACK, 8, 0, True), torch.bfloat16, "groups of 48"),
        (case(PACK, 3, 16, True), torch.float16, "4 and 8 bits, not 3"),
        (case(PACK, 4, 16, True, activation_bits=8), torch.float16, "activations of 8 bits"),
        (case(INT, 8, 0, True, activation_bits=8), torch.float32, None),
    ],
)
def test_what_no_kernel_reads_has_a_reason(
    tmp_path: Path, stored: Case, dtype: torch.dtype, reason: str | None
) -> None:
    publish_quantized(tmp_path / "model", "llama", stored)
    descriptor = open_checkpoint(tmp_path / "model")
    found = obstacle(tmp_path / "model", descriptor, packed_format(tmp_path / "model", descriptor), dtype)
    assert found is None if reason is None else reason in (found or "")


def test_a_cpu_serves_dequantized_and_says_why(tmp_path: Path) -> None:
    publish_quantized(tmp_path / "model", "llama", CASES[0])
    opened = open_model(tmp_path / "model", Device(), None)
    (note,) = opened.place((1, 8))
    assert opened.codes is None
    assert "dequantized to float32" in note
    assert "kernels for codes are a GPU's" in note


def test_codes_can_be_turned_off(tmp_path: Path) -> None:
    publish_quantized(tmp_path / "model", "llama", CASES[0])
    assert dequantized_because(tmp_path / "model", Device(), Dtype.FLOAT16, codes=False) == ("codes=off was asked for")
