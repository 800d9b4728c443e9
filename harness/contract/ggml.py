"""ggml's types, in which llama.cpp stores and computes: how many weights lie in a block, and in how many bytes.

A checkpoint of the format `gguf` has, in the place of a matrix's tensor `<name>.weight`, `<name>.weight_<type>`: uint8
[rows, bytes of a row], the blocks of each row one after another. So what a tensor holds is known from its name and
shape. Source: `ggml-common.h`; the tests hold the table against the pinned library's own, and that of the
package `gguf`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class BlockType(StrEnum):
    """Those that are made here, by the library's own name in lower case: without an importance matrix."""

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


BLOCKS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
    26: ("I32", 1, 4), 27: ("I64", 1, 8), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""What tensors are stored as, by ggml's number: name, values of a block, bytes of a block."""
_SIZES = {name.lower(): (values, size_bytes) for name, values, size_bytes in BLOCKS.values()}
BLOCK_SHAPES = {
    one: BlockShape(*_SIZES[one], code_bits, group_size, symmetric=symmetric)
    for one, code_bits, group_size, symmetric in (
        (BlockType.Q2_K, 2, 16, False),
        (BlockType.Q3_K, 3, 16, True),
        (BlockType.Q4_K, 4, 32, False),
        (BlockType.Q5_K, 5, 32, False),
        (BlockType.Q6_K, 6, 16, True),
        (BlockType.Q4_0, 4, 32, True),
        (BlockType.Q4_1, 4, 32, False),
        (BlockType.Q5_0, 5, 32, True),
        (BlockType.Q5_1, 5, 32, False),
        (BlockType.Q8_0, 8, 32, True),
        (BlockType.IQ3_XXS, 3, 32, True),
        (BlockType.IQ3_S, 3, 32, True),
        (BlockType.IQ4_NL, 4, 32, True),
        (BlockType.IQ4_XS, 4, 32, True),
    )
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
