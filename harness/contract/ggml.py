"""ggml's block types, in which llama.cpp computes: how many weights of a row lie in a block, and in how many bytes.

A checkpoint of the format `gguf` has, in the place of a matrix's tensor `<name>.weight`, `<name>.weight_<type>`: uint8
[rows, bytes of a row], the blocks of each row one after another. So what a tensor holds is known from its name and
shape. Source: `ggml-common.h`; the tests hold the table against the pinned library's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class BlockType(StrEnum):
    """By the library's own name in lower case. Those that cannot be made without an importance matrix are left out."""

    Q2_K = "q2_k"
    Q3_K = "q3_k"
    Q4_K = "q4_k"
    Q5_K = "q5_k"
    Q6_K = "q6_k"
    Q4_0 = "q4_0"
    Q4_1 = "q4_1"
    Q5_0 = "q5_0"
    Q5_1 = "q5_1"
    Q8_0 = "q8_0"
    IQ3_XXS = "iq3_xxs"
    IQ3_S = "iq3_s"
    IQ4_NL = "iq4_nl"
    IQ4_XS = "iq4_xs"


@dataclass(frozen=True)
class BlockShape:
    """A block of `values` weights in `size_bytes`. `code_bits` are those of one weight's code.

    `group_size` weights share a scale, which is stored whole or as a small multiple of the block's. `symmetric`: there
    is no offset beside the scale.
    """

    values: int
    size_bytes: int
    code_bits: int
    group_size: int
    symmetric: bool

    @property
    def bits_per_weight(self) -> float:
        """Scales included."""
        return 8 * self.size_bytes / self.values


BLOCK_SHAPES = {
    BlockType.Q2_K: BlockShape(256, 84, 2, 16, symmetric=False),
    BlockType.Q3_K: BlockShape(256, 110, 3, 16, symmetric=True),
    BlockType.Q4_K: BlockShape(256, 144, 4, 32, symmetric=False),
    BlockType.Q5_K: BlockShape(256, 176, 5, 32, symmetric=False),
    BlockType.Q6_K: BlockShape(256, 210, 6, 16, symmetric=True),
    BlockType.Q4_0: BlockShape(32, 18, 4, 32, symmetric=True),
    BlockType.Q4_1: BlockShape(32, 20, 4, 32, symmetric=False),
    BlockType.Q5_0: BlockShape(32, 22, 5, 32, symmetric=True),
    BlockType.Q5_1: BlockShape(32, 24, 5, 32, symmetric=False),
    BlockType.Q8_0: BlockShape(32, 34, 8, 32, symmetric=True),
    BlockType.IQ3_XXS: BlockShape(256, 98, 3, 32, symmetric=True),
    BlockType.IQ3_S: BlockShape(256, 110, 3, 32, symmetric=True),
    BlockType.IQ4_NL: BlockShape(32, 18, 4, 32, symmetric=True),
    BlockType.IQ4_XS: BlockShape(256, 136, 4, 32, symmetric=True),
}

_PREFIX = "weight_"
SUFFIXES = {f"{_PREFIX}{one}": one for one in BlockType}
"""The type by the last part of a tensor's name."""


def suffix_of(block_type: BlockType) -> str:
    """The last part of the name of a tensor of this type."""
    return f"{_PREFIX}{block_type}"


def inputs_of(block_type: BlockType, stored: Sequence[int]) -> int | None:
    """The inputs of a matrix that is stored in uint8 [rows, bytes]; None where no whole blocks fill a row."""
    shape = BLOCK_SHAPES[block_type]
    if len(stored) != 2 or stored[1] % shape.size_bytes:
        return None
    return stored[1] // shape.size_bytes * shape.values


def mean_code_bits(weights: dict[BlockType, int]) -> float:
    """The root of the mean square of the code bits: what stands for `bits` where operations count by its square."""
    total = sum(weights.values())
    return math.sqrt(sum(count * BLOCK_SHAPES[one].code_bits ** 2 for one, count in weights.items()) / total)
