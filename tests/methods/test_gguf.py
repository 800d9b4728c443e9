"""The methods `gguf-*`: what the pinned library rounds to, by which names it is stored, and how far it is from dense.

Runs in the environment of `images/llama-cpp/locks/cpu.txt`; elsewhere what needs no library.
"""

import ctypes
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file

from harness.contract import Reason
from harness.contract.ggml import BLOCK_SHAPES, BlockType, suffix_of
from harness.errors import Unsupported
from harness.methods.job import parse_request
from harness.quantization.ggml.blocks import BlockWeight
from harness.quantization.ggml.shared_object import open_shared_object
from tests.methods.compress_requests import Requests, logits_of, parameters_of
from tests.support.offered import METHODS
from tests.support.small_checkpoints import publish_checkpoint
from tests.support.zoo import zoo_checkpoint

WIDTHS = {"hidden_size": 256, "intermediate_size": 544}
MOST_ERROR = {
    BlockType.Q2_K: 0.36,
    BlockType.Q3_K: 0.18,
    BlockType.Q4_K: 0.09,
    BlockType.Q5_K: 0.045,
    BlockType.Q6_K: 0.022,
    BlockType.Q4_0: 0.105,
    BlockType.Q4_1: 0.095,
    BlockType.Q5_0: 0.052,
    BlockType.Q5_1: 0.046,
    BlockType.Q8_0: 0.0065,
    BlockType.IQ3_XXS: 0.26,
    BlockType.IQ3_S: 0.2,
    BlockType.IQ4_NL: 0.092,
    BlockType.IQ4_XS: 0.093,
}
"""Of weights drawn from a normal distribution, the error's norm by the weights': a fifth above what was measured."""

needs_library = pytest.mark.skipif(
    find_spec("xllamacpp") is None,
    reason="llama.cpp is installed in the environment of the image `llama-cpp` alone",
)
each_type = pytest.mark.parametrize("block_type", BlockType)


def name_of(block_type: BlockType) -> str:
    return f"gguf-{block_type}"


def usual(block_type: BlockType) -> str:
    return METHODS[name_of(block_type)].default_setting


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers whose down projection alone has rows that are no multiple of 256, its head tied."""
    folder = tmp_path_factory.mktemp("dense") / "model"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.1,
        tie_word_embeddings=True,
        **WIDTHS,
    )
    publish_checkpoint(folder, transformers.AutoModelForCausalLM.from_config(config))
    return folder


@pytest.fixture
def compress(dense: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(block_type: BlockType, **options: Any) -> Any:
        (tmp_path / "model").symlink_to(dense)
        return Requests(name_of(block_type), tmp_path)(usual(block_type), **options)

    return run


def by_the_library(weight: torch.Tensor, block_type: BlockType) -> torch.Tensor:
    """uint8 [rows, bytes of a row], as `ggml_quantize_chunk` writes it."""
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    taken = (ctypes.c_int, pointer, pointer, whole, whole, whole, pointer)
    library = open_shared_object({"ggml_quantize_chunk": (ctypes.c_size_t, taken)})
    values, shape = weight.float().contiguous(), BLOCK_SHAPES[block_type]
    made = torch.zeros(len(values), values.shape[1] // shape.values * shape.size_bytes, dtype=torch.uint8)
    number = int(gguf.GGMLQuantizationType[block_type.name])
    library.ggml_quantize_chunk(number, values.data_ptr(), made.data_ptr(), 0, *values.shape, None)
    return made


@each_type
def test_the_image_s_setting_is_that_of_the_type(block_type: BlockType) -> None:
    shape, method = BLOCK_SHAPES[block_type], METHODS[name_of(block_type)]
    assert method.patterns == (f"W{shape.code_bits}A16g{shape.group_size}",) == (method.default_setting,)
    assert [one.symmetric for one in method.traits] == [shape.symmetric]
    assert f"{shape.bits_per_weight:.4g} bits a weight in blocks of {shape.values}" in method.summary
    parse_request(parameters_of(name_of(block_type), method.default_setting))


def test_the_image_offers_each_type_once() -> None:
    assert sorted(name for name in METHODS if name.startswith("gguf-")) == sorted(map(name_of, BlockType))


@needs_library
@each_type
def test_the_table_of_types_is_the_library_s(block_type: BlockType) -> None:
    taken = (ctypes.c_int,)
    library = open_shared_object(
        {
            "ggml_type_size": (ctypes.c_size_t, taken),
            "ggml_blck_size": (ctypes.c_int64, taken),
            "ggml_type_name": (ctypes.c_char_p, taken),
            "ggml_quantize_requires_imatrix": (ctypes.c_bool, taken),
        }
    )
    number, shape = int(gguf.GGMLQuantizationType[block_type.name]), BLOCK_SHAPES[block_type]
    assert library.ggml_type_name(number).decode().lower() == block_type
    assert (library.ggml_blck_size(number), library.ggml_type_size(number)) == (shape.values, shape.size_bytes)
    assert not library.ggml_quantize_requires_imatrix(number)


@needs_library
@each_type
def test_what_is_stored_are_the_library_s_bytes_and_their_error_is_that_of_the_type(
    block_type: BlockType, dense: Path, compress: Callable[..., Any]
) -> None:
    result, artifact, _ = compress(block_type)
    stored, weights = load_file(artifact / "model.safetensors"), load_file(dense / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    blocks = stored[name.replace("weight", suffix_of(block_type))]
    assert torch.equal(blocks, by_the_library(weights[name], block_type))
    exact = weights[name].float()
    error = (BlockWeight(blocks, block_type).dequantize(torch.float32) - exact).norm() / exact.norm()
    assert 0 < error < MOST_ERROR[block_type]
    shape = BLOCK_SHAPES[block_type]
    how = result.artifact.quantization
    assert (how.weight_bits, how.group_size, how.symmetric) == (shape.code_bits, shape.group_size, shape.symmetric)
    assert torch.equal(stored["model.embed_tokens.weight"], weights["model.embed_tokens.weight"])


@needs_library
def test_rows_that_no_block_fills_lie_in_another_type_and_the_note_says_which_and_how_many(
    compress: Callable[..., Any],
) -> None:
    result, artifact, _ = compress(BlockType.Q4_K)
    stored = load_file(artifact / "model.safetensors")
    assert {name.rpartition(".")[2] for name in stored if "down_proj" in name} == {"weight_q5_0"}
    assert {name.rpartition(".")[2] for name in stored if "up_proj" in name} == {"weight_q4_k"}
    (down, rest), (q5_0, q4_k) = (256 * 544, 256 * 256 * 2 + 128 * 256 * 2 + 2 * 544 * 256), (5.5, 4.5)
    mean = (down * q5_0 + rest * q4_k) / (down + rest)
    assert result.artifact.notes[-1] == (
        f"{rest / (down + rest):.0%} of the decoder's weights lie in q4_k, and {down / (down + rest):.0%} in q5_0, as"
        f" llama.cpp stores rows that are no multiple of 256: {mean:.3g} bits a weight of the decoder, scales included"
    )


@needs_library
def test_a_tied_embedding_is_stored_once_in_the_type_that_was_asked_for(
    dense: Path, compress: Callable[..., Any]
) -> None:
    result, artifact, _ = compress(BlockType.Q8_0, embeddings="q6_k")
    stored, weights = load_file(artifact / "model.safetensors"), load_file(dense / "model.safetensors")
    table = weights["model.embed_tokens.weight"]
    assert torch.equal(stored["model.embed_tokens.weight_q6_k"], by_the_library(table, BlockType.Q6_K))
    assert not any(name.startswith("lm_head") for name in stored)
    assert "model.embed_tokens lies in q6_k" in result.artifact.notes
    tokens = torch.arange(20)[None]
    assert (logits_of(artifact, tokens) - logits_of(dense, tokens)).abs().mean() < 0.1


@needs_library
def test_a_model_of_which_nothing_would_lie_in_the_type_is_refused_with_the_one_that_would(tmp_path: Path) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "model")
    with pytest.raises(Unsupported, match="store all of them as q5_0 in place of q4_k") as refused:
        Requests("gguf-q4_k", tmp_path)(usual(BlockType.Q4_K))
    assert (refused.value.reason, refused.value.hint) == (
        Reason.SHAPE,
        "use gguf-q5_0, which is what would come of it",
    )
