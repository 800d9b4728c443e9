"""Weights in llama.cpp's blocks, as the methods `gguf-*` store them: `harness.contract.ggml` says what lies where.

Each matrix has a type of its own, in its tensor's name; config.json says what was asked for. No other library reads it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from harness.contract import Quantization
from harness.contract.ggml import SUFFIXES as TYPES
from harness.contract.ggml import inputs_of
from harness.quantization.ggml.blocks import BlockWeight
from harness.quantization.layouts.refusals import contradiction, refuse_quantized_activations
from harness.quantization.layouts.scheme import Scheme, StoredConfig, read_as

NAME = "gguf"
SUFFIXES: frozenset[str] = frozenset()
OPTIONAL = frozenset(TYPES)
MARKERS = frozenset(TYPES)


def decode(tensors: Mapping[str, Tensor]) -> BlockWeight:
    """The blocks of one matrix, by suffix. Raises BadCheckpoint where they are not those of one type."""
    if len(tensors) != 1:
        raise contradiction(NAME, f"{' and '.join(sorted(tensors))} stand for the same weights")
    [(suffix, blocks)] = tensors.items()
    if inputs_of(TYPES[suffix], blocks.shape) is None:
        raise contradiction(NAME, f"{list(blocks.shape)} bytes are no whole blocks of {TYPES[suffix]}")
    return BlockWeight(blocks, TYPES[suffix])


def make(quantization: Quantization, ignored: Sequence[str], act_order: bool) -> dict[str, object]:
    """See `harness.quantization.layouts.quantization_config`. There is no order of activations."""
    refuse_quantized_activations(NAME, quantization)
    return {
        "quant_method": "llmcbench-gguf",
        "bits": quantization.weight_bits,
        "group_size": quantization.group_size,
        "symmetric": quantization.symmetric,
        "modules_to_not_convert": list(ignored),
    }


class _Config(StoredConfig):
    quant_method: Literal["llmcbench-gguf"]
    bits: int
    group_size: int
    symmetric: bool


def read(config: Mapping[str, object]) -> Scheme:
    """See `harness.quantization.layouts.read_scheme`."""
    stored = read_as(_Config, NAME, config)
    return Scheme(bits=stored.bits, symmetric=stored.symmetric, group_size=stored.group_size)
