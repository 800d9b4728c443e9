"""A weight in ggml's blocks: what it is worth, and how codes with scales of ours lie in blocks without a change.

Q4_0 holds codes of up to 4 bits with a scale and the zero in the middle, Q8_0 those of up to 8; Q4_1 those of up to 4
bits with any zero, as a scale and a smallest value. All three have one of each for 32 inputs, in half precision, so a
larger group's are repeated. The order of codes within a block is that of `ggml-common.h`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.contract import Reason
from harness.contract.ggml import BLOCK_SHAPES, BlockType, inputs_of
from harness.errors import Unsupported
from harness.quantization.weight import QuantizedWeight

GROUP = 32
"""Inputs that share a scale in the types which codes of ours are laid into."""
_NARROW_BITS = 4
_MIDDLE = {BlockType.Q4_0: 8, BlockType.Q8_0: 0}


@dataclass(frozen=True)
class BlockWeight:
    """`blocks`: uint8 [rows, bytes of a row], of one type."""

    blocks: Tensor
    block_type: BlockType

    @property
    def shape(self) -> tuple[int, int]:
        inputs = inputs_of(self.block_type, self.blocks.shape)
        assert inputs is not None  # noqa: S101  whole blocks fill a row of what was stored
        return self.blocks.shape[0], inputs

    def rows(self, part: slice) -> "BlockWeight":
        """Some of the rows."""
        return BlockWeight(self.blocks[part], self.block_type)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[rows, inputs] as the package `gguf` computes it, bit for bit what ggml does, in float32; then in `dtype`."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        values: Any = dequantize(self.blocks.numpy(), GGMLQuantizationType[self.block_type.name])
        return torch.from_numpy(values).to(dtype)


@dataclass(frozen=True)
class Laid:
    """A weight of ours in blocks. `largest_change` is that of a weight, as a share of its row's and group's step."""

    weight: BlockWeight
    largest_change: float


def type_for(weight: QuantizedWeight) -> BlockType:
    """The smallest type that holds the codes.

    Raises:
        Unsupported: none does.
    """
    narrow = weight.bits <= _NARROW_BITS
    symmetric = weight.symmetric or bool((weight.zero == 2 ** (weight.bits - 1)).all())
    if not symmetric and not narrow:
        raise Unsupported(
            Reason.SETTING,
            f"no type of llama.cpp holds codes of {weight.bits} bits with zeros",
            hint="compress with `symmetric: true`, or serve it with `transformers` or `vllm`",
        )
    if not symmetric:
        return BlockType.Q4_1
    return BlockType.Q4_0 if narrow else BlockType.Q8_0


def lay_into_blocks(weight: QuantizedWeight) -> Laid:
    """The same codes in blocks of the smallest type that holds them; scales and smallest values become halves.

    Raises:
        Unsupported: no type holds the codes, or the groups are none of 32 · n consecutive inputs.
    """
    block_type = type_for(weight)
    rows, inputs = weight.codes.shape
    size = weight.group_size or inputs
    if weight.group_of is not None:
        raise Unsupported(
            Reason.SETTING,
            "llama.cpp has no groups in the order of the activations",
            hint="compress without `act_order`, or with `static_groups`",
        )
    if inputs % GROUP or size % GROUP:
        what = f"groups of {weight.group_size} inputs" if weight.group_size else f"rows of {inputs} weights"
        raise Unsupported(
            Reason.SHAPE,
            f"llama.cpp's blocks hold {GROUP} weights, and {what} are no multiple of that",
            hint="compress in groups of 32, 64 or 128 inputs, or serve it with `transformers` or `vllm`",
        )
    scale = weight.scale.float().repeat_interleave(size // GROUP, dim=1)
    zero = weight.zero.float().repeat_interleave(size // GROUP, dim=1)
    halves = scale.half()
    codes = weight.codes.view(rows, inputs // GROUP, GROUP)
    if block_type is BlockType.Q4_1:
        lowest = (-zero * scale).half()
        parts = [_bytes(halves), _bytes(lowest), _nibbles(codes)]
        exact = (codes.float() - zero[..., None]) * scale[..., None]
        laid = codes.float() * halves.float()[..., None] + lowest.float()[..., None]
    else:
        signed = codes.to(torch.int16) - 2 ** (weight.bits - 1)
        stored = (signed + _MIDDLE[block_type]).to(torch.int8)
        packed = _nibbles(stored.view(torch.uint8)) if block_type is BlockType.Q4_0 else stored.view(torch.uint8)
        parts = [_bytes(halves), packed]
        exact, laid = signed.float() * scale[..., None], signed.float() * halves.float()[..., None]
    if not bool(torch.isfinite(halves).all()):
        raise Unsupported(
            Reason.SHAPE,
            "a scale is beyond what llama.cpp's halves hold (65504)",
            hint="serve it with `transformers` or `vllm`",
        )
    steps = scale.abs()[..., None].clamp_min(torch.finfo(torch.float32).tiny)
    blocks = torch.cat(parts, dim=2).reshape(rows, inputs // GROUP * BLOCK_SHAPES[block_type].size_bytes)
    change = float(((laid - exact).abs() / steps).max()) if exact.numel() else 0.0
    return Laid(BlockWeight(blocks.contiguous(), block_type), change)


def _bytes(halves: Tensor) -> Tensor:
    """float16 [rows, blocks] as uint8 [rows, blocks, 2]."""
    return halves.contiguous().view(torch.uint8).view(*halves.shape, 2)


def _nibbles(codes: Tensor) -> Tensor:
    """uint8 [..., 32] of 4 bits as uint8 [..., 16]: the first 16 in the low halves of the bytes."""
    return codes[..., : GROUP // 2] | codes[..., GROUP // 2 :] << 4
