"""The checkpoint that every backend can be tried with: a random LLaMA of 1.4 million weights, written on the spot.

Its sizes are multiples of what the kernels of all libraries want: heads of 64, widths of 256 and 512. The vocabulary is
one token a byte, and the tokenizer is written along, since some libraries do not load a model without one.
"""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.contract import (
    DESCRIPTOR_NAME,
    CheckpointDescriptor,
    CheckpointFormat,
    Dtype,
    canonical_json,
    describe_tree,
)

_VOCABULARY, _HIDDEN, _INTERMEDIATE, _LAYERS, _HEADS = 258, 256, 512, 2, 4
_BEGINNING, _END = 256, 257
_SEED = 4
_SPREAD = 0.05
"""Standard deviation of a weight. With these two, float32 and bfloat16 generate the same 24 tokens on a CPU."""
_ALIGNMENT_BYTES = 8


def write_probe(folder: Path) -> None:
    """Fill `folder`, which must not exist, with the published checkpoint; the same bytes every time."""
    folder.mkdir(parents=True)
    _write_json(folder / "config.json", _CONFIGURATION)
    _write_json(folder / "tokenizer.json", _tokenizer())
    _write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIGURATION)
    count = _write_weights(folder / "model.safetensors")
    descriptor = CheckpointDescriptor(
        files=describe_tree(folder),
        format=CheckpointFormat.DENSE,
        dtype=Dtype.FLOAT16,
        architecture=_CONFIGURATION["architectures"][0],
        parameter_count=count,
        source="random weights, made by `orchestrator backends verify`",
    )
    (folder / DESCRIPTOR_NAME).write_bytes(canonical_json(descriptor.model_dump(mode="json")))


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (_VOCABULARY, _HIDDEN)
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (_HIDDEN,)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}.self_attn.{name}.weight", (_HIDDEN, _HIDDEN)
        yield f"{prefix}.post_attention_layernorm.weight", (_HIDDEN,)
        yield f"{prefix}.mlp.gate_proj.weight", (_INTERMEDIATE, _HIDDEN)
        yield f"{prefix}.mlp.up_proj.weight", (_INTERMEDIATE, _HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", (_HIDDEN, _INTERMEDIATE)
    yield "model.norm.weight", (_HIDDEN,)
    yield "lm_head.weight", (_VOCABULARY, _HIDDEN)


def _write_weights(path: Path) -> int:
    """A safetensors file of float16: the length of a JSON header, the header, the values. Returns their number."""
    drawn = np.random.RandomState([_SEED])  # its stream is the same in every version of numpy
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    values, end = [], 0
    for name, shape in _shapes():
        begin, count = end, math.prod(shape)
        end += count
        values.append(np.ones(count) if len(shape) == 1 else _SPREAD * _normal(drawn, count))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [2 * begin, 2 * end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    path.write_bytes(struct.pack("<Q", len(text)) + text + np.concatenate(values).astype("<f2").tobytes())
    return end


def _normal(drawn: np.random.RandomState, count: int) -> npt.NDArray[np.float64]:
    """An even number of draws, two from each pair of uniform ones (Box and Muller)."""
    angle, radius = drawn.random_sample((count // 2, 2)).T
    angle, radius = 2 * np.pi * angle, np.sqrt(-2 * np.log(1 - radius))
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius], axis=1).ravel()


def _tokenizer() -> dict[str, Any]:
    vocabulary = {piece: number for number, piece in enumerate(_byte_pieces())}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": _BEGINNING, "content": "<s>", **special},
            {"id": _END, "content": "</s>", **special},
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def _byte_pieces() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself where it is printable."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(0x100)]


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


_CONFIGURATION: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "bos_token_id": _BEGINNING,
    "eos_token_id": _END,
    "pad_token_id": _END,
    "hidden_act": "silu",
    "hidden_size": _HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": _INTERMEDIATE,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "num_attention_heads": _HEADS,
    "num_hidden_layers": _LAYERS,
    "num_key_value_heads": _HEADS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": _VOCABULARY,
}
_TOKENIZER_CONFIGURATION: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "</s>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 512,
}
