"""A checkpoint's matrices as they are stored: plain ones, and quantized linears by the tensors of their layout."""

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.contract.artifact import CheckpointFormat
from harness.contract.ggml import BLOCK_SHAPES, SUFFIXES, BlockType, inputs_of, mean_code_bits
from harness.contract.stored import StoredTensor
from harness.contract.weights import FLOATS, BadWeights, read_bytes, read_stored

_BUFFER = "rotary_emb.inv_freq"
_PARAMETER_DIMENSIONS = (1, 2, 3)
"""Older checkpoints also store buffers: the frequencies above, masks of four dimensions, and single numbers."""


@dataclass(frozen=True)
class Matrices:
    """Rows and inputs of every stored matrix by the name of its linear or embedding, packed ones as they are meant.

    `bits_per_weight` and `code_bits` as in `StoredWeights`.
    """

    shapes: Mapping[str, tuple[int, int]]
    bits_per_weight: float | None = None
    code_bits: float | None = None

    @classmethod
    def read(cls, folder: Path, stored_as: CheckpointFormat) -> "Matrices":
        """From the headers alone.

        Raises:
            BadWeights: they cannot be read.
        """
        weights = StoredWeights.read(folder, stored_as)
        plain = {one.name.removesuffix(".weight"): one.shape for one in weights.plain if len(one.shape) == 2}
        packed = {one.name: (one.rows, one.inputs) for one in weights.linears}
        shapes = {name: (rows, inputs) for name, (rows, inputs) in (plain | packed).items()}
        return cls(shapes, weights.bits_per_weight, weights.code_bits)


@dataclass(frozen=True)
class QuantizedLinear:
    """A quantized linear by the shapes of its tensors: `packed` codes lie in a run of `words`, of `word_bits` each."""

    name: str
    codes: StoredTensor
    parts: tuple[StoredTensor, ...]
    rows: int
    inputs: int
    groups: int
    packed: int
    words: int
    word_bits: int
    block_type: BlockType | None = None

    @property
    def weights(self) -> int:
        return self.rows * self.inputs

    @property
    def bits(self) -> float:
        return self.words * self.word_bits / max(self.packed, 1)


@dataclass(frozen=True)
class _Layout:
    """The suffixes of a quantized linear's tensors: `codes` in `dtype`, `scale`, and the `others` that may be there."""

    codes: str
    dtype: str
    scale: str
    others: tuple[str, ...] = ()


_LAYOUTS = {
    CheckpointFormat.PACK_QUANTIZED: _Layout(
        "weight_packed", "I32", "weight_scale", ("weight_shape", "weight_zero_point", "weight_g_idx")
    ),
    CheckpointFormat.INT_QUANTIZED: _Layout("weight", "I8", "weight_scale", ("weight_zero_point",)),
    CheckpointFormat.GPTQ: _Layout("qweight", "I32", "scales", ("qzeros", "g_idx")),
    CheckpointFormat.AWQ: _Layout("qweight", "I32", "scales", ("qzeros",)),
    CheckpointFormat.MODELOPT_AWQ: _Layout("weight", "U8", "weight_scale", ("pre_quant_scale",)),
    CheckpointFormat.MODELOPT_FP8: _Layout("weight", "F8_E4M3", "weight_scale", ("input_scale",)),
}


@dataclass(frozen=True)
class StoredWeights:
    """`plain` are the tensors that belong to no quantized linear.

    `in_blocks` and `bytes_in_blocks` are values and bytes of the matrices of numbered blocks, plain and quantized;
    `bits_per_weight` is what a value of them takes with its share of scales and zeros, None where there are none.
    `code_bits` are those of ggml's blocks (`mean_code_bits`), None where there are none.
    """

    linears: tuple[QuantizedLinear, ...]
    plain: tuple[StoredTensor, ...]
    matrices: tuple[StoredTensor, ...] = field(init=False)
    """Of the plain ones, the matrices of numbered blocks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrices", tuple(one for one in self.plain if one.is_block_matrix))

    @classmethod
    def read(cls, folder: Path, stored_as: CheckpointFormat) -> "StoredWeights":
        """From the headers, and from the shapes that some layouts store as tensors.

        Raises:
            BadWeights: they cannot be read.
        """
        tensors = read_stored(folder)
        if stored_as is CheckpointFormat.GGUF:
            linears = tuple(_in_blocks_of_ggml(tensors))
        else:
            linears = tuple(_linears(stored_as, tensors)) if stored_as in _LAYOUTS else ()
        parts = {part.name for one in linears for part in one.parts}
        return cls(linears, tuple(one for name, one in tensors.items() if name not in parts))

    @property
    def parameter_count(self) -> int:
        plain = sum(one.values for one in self.plain if one.dtype in FLOATS and _is_parameter(one))
        return plain + sum(one.weights for one in self.linears)

    @property
    def in_blocks(self) -> int:
        return sum(one.values for one in self.matrices) + sum(one.weights for one in self.numbered)

    @property
    def numbered(self) -> tuple[QuantizedLinear, ...]:
        """The quantized linears of numbered blocks."""
        return tuple(one for one in self.linears if one.codes.is_block_matrix)

    @property
    def bytes_in_blocks(self) -> int:
        packed = sum(part.size_bytes for one in self.numbered for part in one.parts)
        return packed + sum(one.size_bytes for one in self.matrices)

    @property
    def bits_per_weight(self) -> float | None:
        return 8 * self.bytes_in_blocks / self.in_blocks if self.in_blocks else None

    @property
    def code_bits(self) -> float | None:
        return mean_code_bits(self.block_types) if self.block_types else None

    @property
    def block_types(self) -> dict[BlockType, int]:
        """How many weights of numbered blocks lie in each of ggml's types."""
        found: Counter[BlockType] = Counter()
        for one in self.numbered:
            if one.block_type is not None:
                found[one.block_type] += one.weights
        return dict(found)


def _is_parameter(tensor: StoredTensor) -> bool:
    return len(tensor.shape) in _PARAMETER_DIMENSIONS and not tensor.name.endswith(_BUFFER)


def _linears(stored_as: CheckpointFormat, tensors: Mapping[str, StoredTensor]) -> Iterator[QuantizedLinear]:
    layout = _LAYOUTS[stored_as]
    for name, codes in tensors.items():
        linear, _, suffix = name.rpartition(".")
        scale = tensors.get(f"{linear}.{layout.scale}")
        if suffix == layout.codes and codes.dtype == layout.dtype and len(codes.shape) == 2 and scale is not None:
            found = (tensors.get(f"{linear}.{other}") for other in layout.others)
            parts = (codes, scale, *(part for part in found if part is not None))
            yield _linear(stored_as, linear, codes, scale, parts)


def _in_blocks_of_ggml(tensors: Mapping[str, StoredTensor]) -> Iterator[QuantizedLinear]:
    for name, blocks in tensors.items():
        linear, _, suffix = name.rpartition(".")
        if suffix not in SUFFIXES or blocks.dtype != "U8":
            continue
        inputs = inputs_of(SUFFIXES[suffix], blocks.shape)
        if inputs is None:
            raise BadWeights(f"{name} has rows of {list(blocks.shape)[-1:]} bytes, which are no whole blocks")
        groups = inputs // BLOCK_SHAPES[SUFFIXES[suffix]].group_size
        yield QuantizedLinear(linear, blocks, (blocks,), blocks.shape[0], inputs, groups, 0, 0, 8, SUFFIXES[suffix])


def _linear(
    stored_as: CheckpointFormat, name: str, codes: StoredTensor, scale: StoredTensor, parts: tuple[StoredTensor, ...]
) -> QuantizedLinear:
    by_suffix = {part.name.rpartition(".")[2]: part for part in parts}
    height, width = codes.shape
    scales = scale.shape if len(scale.shape) == 2 else (1, 1)

    def made(rows: int, inputs: int, groups: int, packed: int, words: int, word_bits: int) -> QuantizedLinear:
        return QuantizedLinear(name, codes, parts, rows, inputs, groups, packed, words, word_bits)

    match stored_as:
        case CheckpointFormat.PACK_QUANTIZED:
            rows, inputs = _stated_shape(name, by_suffix.get("weight_shape"))
            return made(rows, inputs, scales[1], inputs, width, 32)
        case CheckpointFormat.GPTQ:
            index = by_suffix.get("g_idx")
            if index is None:
                raise BadWeights(f"{name} has no g_idx, which gptq needs")
            return made(width, index.values, scales[0], index.values, height, 32)
        case CheckpointFormat.AWQ:
            return made(scales[1], height, scales[0], scales[1], width, 32)
        case CheckpointFormat.MODELOPT_AWQ:
            return made(scales[0], width, scales[1], scales[0], height, 8)
        case _:
            return made(height, width, scales[1], width, width, 8)


def _stated_shape(name: str, stated: StoredTensor | None) -> tuple[int, int]:
    """What a packed linear's `weight_shape` holds: its rows and inputs, as two integers of 64 bits."""
    if stated is None or (stated.dtype, stated.values) != ("I64", 2):
        raise BadWeights(f"{name} has no weight_shape of two I64 values")
    rows, inputs = struct.unpack("<qq", read_bytes(stated))
    return rows, inputs
