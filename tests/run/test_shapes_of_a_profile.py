"""What a worker counted of a checkpoint's operations is counted again from the tensors, and no other figure stands."""

from pathlib import Path

import pytest

from harness.architectures.shape import Shape, read_shape
from harness.checkpoint import open_checkpoint, read_config
from harness.contract import CheckpointDescriptor, Dtype, Memory, ProfileParameters, ProfileResult
from harness.contract.claims import count_claims
from harness.contract.matrices import Matrices
from harness.profiling.macs import DENSITY, PAPER, SHAPE, count_macs
from orchestrator.run.shapes import of_shapes
from tests.support.quantized_weights import CASES, Case, publish_quantized
from tests.support.small_checkpoints import CONFIGURATIONS, publish_checkpoint, small_model
from tests.support.stored_zoo import with_a_narrow_layer, with_zeros

ASKED = ProfileParameters(macs_tokens=24)
POSITIONS = ASKED.prompt_tokens + ASKED.generate_tokens
CONVENTIONS = (SHAPE, DENSITY, PAPER)


def profiled(folder: Path) -> tuple[ProfileResult, Shape]:
    """As the worker would, from config.json and the counted tensors."""
    descriptor, shape = open_checkpoint(folder), read_shape(read_config(folder))
    counted = count_claims(folder, descriptor)
    bits = 16 if descriptor.quantization is None else descriptor.quantization.weight_bits
    macs = count_macs(
        shape,
        ASKED.macs_tokens,
        density=1 - (counted.zeros or 0) / counted.weights,
        weight_bits=counted.code_bits or bits,
    )
    result = ProfileResult(
        disk_bytes=1,
        weight_bytes=1,
        parameter_count=1,
        macs=macs,
        macs_tokens=ASKED.macs_tokens,
        memory=Memory(peak_memory_bytes=4 * shape.decoder_weights, method="peak-rss"),
        kv_cache_bytes=shape.kv_cache_bytes(tokens=POSITIONS, batch_size=1, value_bytes=4),
        protocol="p",
        dtype=Dtype.FLOAT32,
        dtype_reason="r",
    )
    return result, shape


def false(folder: Path, result: ProfileResult, descriptor: CheckpointDescriptor | None = None) -> list[str]:
    checkpoint = descriptor or open_checkpoint(folder)
    claims = of_shapes(result, ASKED, Matrices.read(folder, checkpoint.format), checkpoint)
    return [field for field, found, wanted in claims if found != wanted]


def check_every_figure(folder: Path) -> None:
    """What is counted stands, and a hundredth more or less of any figure does not."""
    result, _ = profiled(folder)
    assert false(folder, result) == []
    for name in CONVENTIONS:
        for factor in (0.99, 1.01):
            other = result.model_copy(update={"macs": result.macs | {name: round(factor * result.macs[name])}})
            assert f"macs.{name}" in false(folder, other), (name, factor)


@pytest.mark.parametrize("family", sorted(CONFIGURATIONS))
def test_dense_checkpoints_of_every_family(tmp_path: Path, family: str) -> None:
    check_every_figure(publish_checkpoint(tmp_path / "small", small_model(family)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_checkpoints_of_every_layout(tmp_path: Path, case: Case) -> None:
    publish_quantized(tmp_path / "packed", "llama", case)
    check_every_figure(tmp_path / "packed")


def test_zeros_and_a_pruned_layer_count_as_they_are(tmp_path: Path) -> None:
    dense = publish_checkpoint(tmp_path / "dense", small_model("llama"))
    for change in (with_zeros, with_a_narrow_layer):
        check_every_figure(change(dense, tmp_path / change.__name__))


def test_of_a_decoder_that_is_not_known_the_matrices_give_the_least_and_the_most(tmp_path: Path) -> None:
    folder = publish_checkpoint(tmp_path / "small", small_model("llama"))
    result, shape = profiled(folder)
    known, checkpoint = Matrices.read(folder, open_checkpoint(folder).format), open_checkpoint(folder)
    other = Matrices({name.replace("self_attn.o_proj", "attention.dense"): one for name, one in known.shapes.items()})

    def refused(**macs: int) -> bool:
        said = result.model_copy(update={"macs": {f"macs/{name}": one for name, one in macs.items()}})
        claims = of_shapes(said, ASKED, other, checkpoint)
        return any(field.startswith("macs") and found != wanted for field, found, wanted in claims)

    linears = ASKED.macs_tokens * shape.decoder_weights
    assert not refused(shape=result.macs[SHAPE])
    assert not refused(shape=linears)
    assert refused(shape=linears - 1)
    assert refused(shape=3 * result.macs[SHAPE])
    assert refused(shape=linears, density=linears // 2)
    assert refused(density=linears)


def test_keys_and_values_are_at_most_those_of_all_positions_and_weights_are_in_memory(tmp_path: Path) -> None:
    folder = publish_checkpoint(tmp_path / "small", small_model("llama"))
    result, shape = profiled(folder)
    assert false(folder, result.model_copy(update={"kv_cache_bytes": result.kv_cache_bytes + 1})) == ["kv_cache_bytes"]
    assert false(folder, result.model_copy(update={"kv_cache_bytes": 1})) == [], "a window keeps fewer"
    less = Memory(peak_memory_bytes=4 * shape.decoder_weights - 1, method="peak-rss")
    assert false(folder, result.model_copy(update={"memory": less})) == ["memory.peak_memory_bytes"]
    halved = result.model_copy(update={"memory": less, "dtype": Dtype.BFLOAT16})
    assert false(folder, halved.model_copy(update={"kv_cache_bytes": 1})) == []
