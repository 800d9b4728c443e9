"""MACs: against torch's own counter on small models, and against the paper's printed table."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from harness.architectures.pruned_shapes import LayerWidths, layers_config, model_class
from harness.architectures.shape import read_shape
from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.profiling.macs import DENSITY, PAPER, SHAPE, count_macs
from tests.support.small_checkpoints import CONFIGURATIONS, small_model
from tests.support.zoo import ZOO, zoo_folder

TOKENS = 24
LLAMA_2_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip
LLAMA_3_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip


def small_config(family: str) -> dict[str, Any]:
    return dict(CONFIGURATIONS[family]().to_dict())


@pytest.mark.parametrize("family", sorted(CONFIGURATIONS))
def test_shape_macs_are_half_the_operations_that_torch_counts(family: str) -> None:
    shape = read_shape(small_config(family))
    model = small_model(family)
    model.set_attn_implementation("eager")  # torch has no formula for the fused attention of a CPU and counts 0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(TOKENS)[None], use_cache=False)
    tables = len(set(model.config.layer_types)) if family == "gemma3" else 1  # one for each rotary base
    rotary_table = 0 if family.startswith("opt") else tables * TOKENS * shape.head_size // 2
    assert counter.get_total_flops() == 2 * (count_macs(shape, TOKENS)[SHAPE] + rotary_table)


@pytest.mark.parametrize("family", sorted(CONFIGURATIONS))
def test_decoder_weights_are_those_of_the_blocks_linears(family: str) -> None:
    linears = [
        module.weight.numel()
        for name, module in small_model(family).named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    ]
    assert read_shape(small_config(family)).decoder_weights == sum(linears)


@pytest.mark.parametrize("family", ["gemma3", "qwen3"])
def test_a_head_size_that_a_config_does_not_state_is_that_of_transformers(family: str) -> None:
    config = {name: value for name, value in small_config(family).items() if name != "head_dim"}
    made = transformers.AutoConfig.for_model(**config)
    assert read_shape(config).head_size == made.head_dim != 32 // 4


@pytest.mark.parametrize(
    ("config", "density", "weight_bits", "printed_tera_macs"),
    [
        (LLAMA_2_7B, 1.0, 16, 0.85),
        (LLAMA_3_8B, 1.0, 16, 0.97),
        (LLAMA_2_7B, 0.5, 16, 0.43),
    ],
)
def test_paper_bitops_come_within_a_hundredth_of_the_papers_cells(
    config: dict[str, Any], density: float, weight_bits: int, printed_tera_macs: float
) -> None:
    macs = count_macs(read_shape(config), 128, density=density, weight_bits=weight_bits)
    assert macs[PAPER] / 1e12 == pytest.approx(printed_tera_macs, rel=0.01)


@pytest.mark.parametrize(("config", "printed_tera_macs"), [(LLAMA_2_7B, 0.23), (LLAMA_3_8B, 0.29)])
def test_paper_bitops_at_8_bits_round_to_the_papers_cells(config: dict[str, Any], printed_tera_macs: float) -> None:
    macs = count_macs(read_shape(config), 128, weight_bits=8)
    assert round(macs[PAPER] / 1e12, 2) == printed_tera_macs


def test_a_dense_16_bit_model_counts_the_same_under_every_convention() -> None:
    assert len(set(count_macs(read_shape(LLAMA_2_7B), 128).values())) == 1


def test_density_scales_the_decoder_linears_and_nothing_else() -> None:
    shape = read_shape(LLAMA_3_8B)
    dense, half = count_macs(shape, 128), count_macs(shape, 128, density=0.5)
    assert dense[SHAPE] == half[SHAPE]
    assert dense[DENSITY] - half[DENSITY] == 128 * shape.decoder_weights // 2


def test_8_bits_leave_a_quarter_of_the_decoder_and_the_whole_output_embedding() -> None:
    shape = read_shape(LLAMA_2_7B)
    head = 128 * shape.head_weights
    dense, quantized = count_macs(shape, 128)[PAPER], count_macs(shape, 128, weight_bits=8)[PAPER]
    assert quantized - head == (dense - head) / 4


def test_attention_grows_with_the_square_of_the_length() -> None:
    shape = read_shape(LLAMA_2_7B)
    one, two = (count_macs(shape, tokens)[SHAPE] for tokens in (100, 200))
    assert two - 2 * one == 2 * (2 * 32 * 4096 * 100**2)


def test_an_unknown_model_type_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="model type 'mamba' are not known") as refusal:
        read_shape({"model_type": "mamba"})
    assert refusal.value.reason is Reason.ARCHITECTURE
    assert "qwen3" in refusal.value.hint


def test_a_config_without_a_dimension_names_it() -> None:
    with pytest.raises(BadCheckpoint, match="lacks 'intermediate_size'"):
        read_shape({name: value for name, value in LLAMA_2_7B.items() if name != "intermediate_size"})


@pytest.mark.parametrize("name", ZOO)
def test_shape_macs_of_the_zoo_are_half_the_operations_that_torch_counts(name: str) -> None:
    """Post-norm OPT, GLM with partly rotated heads and fused gate and up, grouped keys, tied and untied embeddings."""
    check_against_torch(zoo_folder(name))


def test_shape_macs_of_layers_that_were_pruned_to_different_widths_are_those_that_torch_counts(tmp_path: Path) -> None:
    widths = [
        LayerWidths(heads=4, key_value_heads=2, intermediate_size=40),
        LayerWidths(heads=2, key_value_heads=1, intermediate_size=24),
    ]
    config = small_config("mistral") | layers_config(widths)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = model_class(tmp_path)(transformers.AutoConfig.from_pretrained(tmp_path))
    model.save_pretrained(tmp_path)
    assert (
        count_macs(read_shape(config), TOKENS)[SHAPE] < count_macs(read_shape(small_config("mistral")), TOKENS)[SHAPE]
    )
    check_against_torch(tmp_path)


def check_against_torch(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = read_shape(config)
    model = model_class(folder).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(TOKENS)[None], use_cache=False)
    assert counter.get_total_flops() == 2 * (count_macs(shape, TOKENS)[SHAPE] + rotary_table_macs(model))


def rotary_table_macs(model: torch.nn.Module) -> int:
    """torch counts the product of positions and frequencies, which the convention leaves out."""
    tables = (table for name, table in model.named_buffers() if name.endswith("rotary_emb.inv_freq"))
    return sum(TOKENS * table.numel() for table in tables)
