"""Dense weights rounded to ggml's types by the library itself, without an importance matrix.

`ggml_quantize_chunk` is what llama.cpp's own quantizing calls for each matrix. Which type it takes for rows that no
whole blocks fill is in a function that is not exported, and so said here once more.
"""

from ctypes import c_bool, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from harness.contract import Reason
from harness.contract.ggml import BLOCK_SHAPES, BlockType
from harness.errors import Unsupported, WorkerError
from harness.quantization.ggml.blocks import BlockWeight
from harness.quantization.ggml.shared_object import HINT, Functions, open_shared_object

_STAND_INS = {
    BlockType.Q2_K: BlockType.Q4_0,
    BlockType.Q3_K: BlockType.Q4_0,
    BlockType.Q4_K: BlockType.Q5_0,
    BlockType.Q5_K: BlockType.Q5_1,
    BlockType.Q6_K: BlockType.Q8_0,
    BlockType.IQ3_XXS: BlockType.IQ4_NL,
    BlockType.IQ3_S: BlockType.IQ4_NL,
    BlockType.IQ4_XS: BlockType.IQ4_NL,
}
"""Of types in blocks of 256, what llama.cpp stores rows as that are no multiple of it (`src/llama-quant.cpp`)."""

_FUNCTIONS: Functions = {
    "ggml_quantize_init": (None, (c_int,)),
    "ggml_quantize_requires_imatrix": (c_bool, (c_int,)),
    "ggml_quantize_chunk": (c_size_t, (c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p)),
}


def type_of_rows(asked: BlockType, inputs: int) -> BlockType | None:
    """`asked`, or what llama.cpp takes for rows of so many inputs in its place; None where it stores them as floats."""
    for one in (asked, _STAND_INS.get(asked)):
        if one is not None and inputs % BLOCK_SHAPES[one].values == 0:
            return one
    return None


@cache
def open_rounding() -> Any:
    """The library. Raises Unsupported where it is not there as it is pinned."""
    return open_shared_object(_FUNCTIONS)


def round_to(weight: Tensor, block_type: BlockType) -> BlockWeight:
    """float32 [rows, inputs] in blocks, as the library rounds them. Whole blocks fill each row.

    Raises:
        Unsupported: the library is not there, or wants an importance matrix for this type.
        WorkerError: it wrote another number of bytes than the type has.
    """
    from gguf import GGMLQuantizationType

    library, number = open_rounding(), int(GGMLQuantizationType[block_type.name])
    if library.ggml_quantize_requires_imatrix(number):
        raise Unsupported(Reason.METHOD, f"llama.cpp makes {block_type} of an importance matrix alone", hint=HINT)
    values = weight.detach().to("cpu", torch.float32).contiguous()
    rows, inputs = values.shape
    shape = BLOCK_SHAPES[block_type]
    blocks = torch.empty(rows, inputs // shape.values * shape.size_bytes, dtype=torch.uint8)
    library.ggml_quantize_init(number)
    written = library.ggml_quantize_chunk(number, values.data_ptr(), blocks.data_ptr(), 0, rows, inputs, None)
    if written != blocks.numel():
        raise WorkerError(
            f"llama.cpp wrote {written} bytes of {block_type} for {rows} rows of {inputs} weights, and not"
            f" {blocks.numel()}",
            hint="use the version in the image's lock",
        )
    return BlockWeight(blocks, block_type)
