"""What a checkpoint's descriptor says of its weights, held against the tensors: an image's word of itself is a claim.

Counted are parameters, the dtype, zeros and their pattern, and whether every matrix of a numbered block is quantized as
is said: the tensors of the layout, their shapes by bits and group size. Of packed codes, zeros are counted where the
quantization is symmetric and has 2, 4 or 8 bits, and patterns not at all: such a claim is refused. Of simulated
quantization the different values of a row are counted, which tells nothing of rows that hold no more than they may.
In a `gguf` checkpoint the type of each matrix is known from its name, and one at least is of the stated kind.
Not counted: the bits of activations, which exist while computing alone, and tensors of three dimensions.
"""

import math
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.contract.artifact import CheckpointDescriptor, CheckpointFormat, Quantization, Sparsity
from harness.contract.ggml import BLOCK_SHAPES, SUFFIXES, BlockType, inputs_of, mean_code_bits
from harness.contract.stored import StoredTensor
from harness.contract.weights import (
    FLOATS,
    BadWeights,
    Poll,
    count_codes,
    count_zeros,
    most_values_of_a_row,
    never,
    read_bytes,
    read_stored,
)

ROUNDING = 0.0005
"""How far a share may be from the counted one: it may be written with three decimals."""
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_PATTERN = re.compile(r"^(\d+):(\d+)$")
_BUFFER = "rotary_emb.inv_freq"
_PARAMETER_DIMENSIONS = (1, 2, 3)
"""Older checkpoints also store buffers: the frequencies above, masks of four dimensions, and single numbers."""
_COUNTED_CODE_BITS = (2, 4, 8)


@dataclass(frozen=True)
class Untrue:
    """A field of the descriptor, what stands there, and what was found instead."""

    field: str
    said: object
    found: object

    def __str__(self) -> str:
        return f"{self.field} is {self.said}, and by the tensors it is {self.found}"


@dataclass(frozen=True)
class Counted:
    """A checkpoint by its tensors. `weights` counts the values of the matrices of numbered blocks; `zeros` counts those
    that are zero, where the descriptor speaks of zeros, and is None elsewhere.

    `bits_per_weight` is what a value of these matrices takes in the files, with its share of scales and zeros; None
    where there are no such matrices. `code_bits` are those of a `gguf` checkpoint's codes (`mean_code_bits`).
    """

    parameter_count: int
    weights: int
    zeros: int | None
    untrue: tuple[Untrue, ...]
    bits_per_weight: float | None = None
    code_bits: float | None = None


def count_claims(folder: Path, descriptor: CheckpointDescriptor, poll: Poll = never) -> Counted:
    """Count in `folder` what `descriptor` says of the weights there.

    Raises:
        BadWeights: the tensors cannot be read.
    """
    weights = _Weights.read(folder, descriptor.format)
    untrue = [
        *_different("parameter_count", descriptor.parameter_count, weights.parameter_count),
        *_untrue_dtype(descriptor, weights),
        *_untrue_quantization(descriptor, weights, poll),
    ]
    zeros = None
    if descriptor.sparsity is not None:
        zeros, found = _count_sparsity(descriptor, descriptor.sparsity, weights, poll)
        untrue += found
    return Counted(
        weights.parameter_count,
        weights.in_blocks,
        zeros,
        tuple(untrue),
        bits_per_weight=weights.bits_per_weight,
        code_bits=weights.code_bits,
    )


@dataclass(frozen=True)
class Matrices:
    """Rows and inputs of every stored matrix by the name of its linear or embedding, packed ones as they are meant.

    `bits_per_weight` and `code_bits` as in `Counted`.
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
        weights = _Weights.read(folder, stored_as)
        plain = {one.name.removesuffix(".weight"): one.shape for one in weights.plain if len(one.shape) == 2}
        packed = {one.name: (one.rows, one.inputs) for one in weights.linears}
        shapes = {name: (rows, inputs) for name, (rows, inputs) in (plain | packed).items()}
        return cls(shapes, weights.bits_per_weight, weights.code_bits)


@dataclass(frozen=True)
class _Linear:
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
class _Weights:
    """`plain` are the tensors that belong to no quantized linear."""

    linears: tuple[_Linear, ...]
    plain: tuple[StoredTensor, ...]
    matrices: tuple[StoredTensor, ...] = field(init=False)
    """Of the plain ones, the matrices of numbered blocks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrices", tuple(one for one in self.plain if one.is_block_matrix))

    @classmethod
    def read(cls, folder: Path, stored_as: CheckpointFormat) -> "_Weights":
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
    def numbered(self) -> tuple[_Linear, ...]:
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


def _linears(stored_as: CheckpointFormat, tensors: Mapping[str, StoredTensor]) -> Iterator[_Linear]:
    layout = _LAYOUTS[stored_as]
    for name, codes in tensors.items():
        linear, _, suffix = name.rpartition(".")
        scale = tensors.get(f"{linear}.{layout.scale}")
        if suffix == layout.codes and codes.dtype == layout.dtype and len(codes.shape) == 2 and scale is not None:
            found = (tensors.get(f"{linear}.{other}") for other in layout.others)
            parts = (codes, scale, *(part for part in found if part is not None))
            yield _linear(stored_as, linear, codes, scale, parts)


def _in_blocks_of_ggml(tensors: Mapping[str, StoredTensor]) -> Iterator[_Linear]:
    for name, blocks in tensors.items():
        linear, _, suffix = name.rpartition(".")
        if suffix not in SUFFIXES or blocks.dtype != "U8":
            continue
        inputs = inputs_of(SUFFIXES[suffix], blocks.shape)
        if inputs is None:
            raise BadWeights(f"{name} has rows of {list(blocks.shape)[-1:]} bytes, which are no whole blocks")
        groups = inputs // BLOCK_SHAPES[SUFFIXES[suffix]].group_size
        yield _Linear(linear, blocks, (blocks,), blocks.shape[0], inputs, groups, 0, 0, 8, SUFFIXES[suffix])


def _linear(
    stored_as: CheckpointFormat, name: str, codes: StoredTensor, scale: StoredTensor, parts: tuple[StoredTensor, ...]
) -> _Linear:
    by_suffix = {part.name.rpartition(".")[2]: part for part in parts}
    height, width = codes.shape
    scales = scale.shape if len(scale.shape) == 2 else (1, 1)

    def made(rows: int, inputs: int, groups: int, packed: int, words: int, word_bits: int) -> _Linear:
        return _Linear(name, codes, parts, rows, inputs, groups, packed, words, word_bits)

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


def _different(where: str, said: object, found: object) -> Iterator[Untrue]:
    if said != found:
        yield Untrue(where, said, found)


def _untrue_dtype(descriptor: CheckpointDescriptor, weights: _Weights) -> Iterator[Untrue]:
    """Held against the dtype of most of the floating-point values that are not quantized, if there are any."""
    values: Counter[str] = Counter()
    for one in weights.plain:
        if one.dtype in _DTYPES:
            values[_DTYPES[one.dtype]] += one.values
    if values:
        yield from _different("dtype", descriptor.dtype.value, values.most_common(1)[0][0])


def _untrue_quantization(descriptor: CheckpointDescriptor, weights: _Weights, poll: Poll) -> Iterator[Untrue]:
    quantization, stored_as = descriptor.quantization, descriptor.format
    if stored_as is CheckpointFormat.DENSE:
        odd = next((one for one in weights.matrices if one.dtype not in FLOATS), None)
        if odd is not None:
            yield Untrue("format", stored_as.value, f"{odd.dtype} ({odd.name})")
        elif quantization is not None:
            yield from _untrue_simulation(quantization, weights.matrices, poll)
        return
    if quantization is None or quantization.simulated:
        yield Untrue("quantization", "none" if quantization is None else "simulated", f"stored as {stored_as.value}")
        return
    yield from _different("quantization.float8", quantization.float8, stored_as is CheckpointFormat.MODELOPT_FP8)
    if left := next(iter(weights.matrices), None):
        yield Untrue("quantization.weight_bits", quantization.weight_bits, f"{left.dtype} ({left.name})")
    if stored_as is CheckpointFormat.GGUF:
        yield from _untrue_types(quantization, weights.block_types)
        return
    for linear in weights.linears:
        yield from _untrue_linear(quantization, linear)


def _untrue_linear(quantization: Quantization, linear: _Linear) -> Iterator[Untrue]:
    bits, size = quantization.weight_bits, quantization.group_size
    if linear.words != math.ceil(linear.packed * bits / linear.word_bits):
        yield Untrue("quantization.weight_bits", bits, f"{linear.bits:.3g} ({linear.name})")
    groups = 1 if size == 0 else math.ceil(linear.inputs / size)
    if linear.groups != groups:
        found = 0 if linear.groups == 1 else f"{linear.inputs / max(linear.groups, 1):.4g}"
        yield Untrue("quantization.group_size", size, f"{found} ({linear.name})")
    if linear.codes.name.endswith(".weight_packed"):
        has_zeros = any(part.name.endswith(".weight_zero_point") for part in linear.parts)
        yield from _different(f"quantization.symmetric ({linear.name})", quantization.symmetric, not has_zeros)


def _untrue_types(quantization: Quantization, block_types: Mapping[BlockType, int]) -> Iterator[Untrue]:
    """Some matrix is of a type with the stated bits, group and symmetry; others may be of whichever they are."""
    shapes = [BLOCK_SHAPES[one] for one in block_types]
    listed = ", ".join(sorted(block_types)) or "no matrix in blocks"
    said = (quantization.weight_bits, quantization.group_size, quantization.symmetric)
    for place, name in enumerate(("weight_bits", "group_size", "symmetric")):
        found = [(one.code_bits, one.group_size, one.symmetric) for one in shapes]
        if said[: place + 1] not in [one[: place + 1] for one in found]:
            yield Untrue(f"quantization.{name}", said[place], listed)
            return


def _untrue_simulation(quantization: Quantization, matrices: Sequence[StoredTensor], poll: Poll) -> Iterator[Untrue]:
    """A row of w = scale · (code - zero) has no more different values than its groups have codes."""
    if not quantization.simulated:
        yield Untrue("quantization.simulated", False, "floating-point weights, without codes")
        return
    most = most_values_of_a_row(matrices, poll)
    for one in matrices:
        groups = 1 if quantization.group_size == 0 else math.ceil(one.shape[1] / quantization.group_size)
        allowed = groups * 2**quantization.weight_bits
        if most.get(one.name, 0) > allowed:
            found = f"more: a row of {one.name} has {most[one.name]} different values, and {allowed} are possible"
            yield Untrue("quantization.weight_bits", quantization.weight_bits, found)
            return


def _count_sparsity(
    descriptor: CheckpointDescriptor, sparsity: Sparsity, weights: _Weights, poll: Poll
) -> tuple[int | None, list[Untrue]]:
    match = _PATTERN.match(sparsity.pattern)
    pattern = (int(match[1]), int(match[2])) if match else None
    unpacked = [*weights.matrices, *(one.codes for one in weights.linears if one.codes.dtype in ("I8", "F8_E4M3"))]
    packed = [one.codes for one in weights.linears if one.codes.dtype not in ("I8", "F8_E4M3")]
    quantization = descriptor.quantization
    in_types = descriptor.format is CheckpointFormat.GGUF
    if packed and (pattern or in_types or quantization is None or not _zeros_show(quantization)):
        name = "pattern" if pattern else "measured"
        return None, [Untrue(f"sparsity.{name}", getattr(sparsity, name), "not to be counted in these codes")]
    counted = count_zeros(unpacked, pattern, poll)
    zeros = sum(one.zeros for one in counted.values())
    if packed and quantization is not None:
        middle = 0 if descriptor.format is CheckpointFormat.MODELOPT_AWQ else 2 ** (quantization.weight_bits - 1)
        zeros += sum(count_codes(packed, quantization.weight_bits, middle, poll).values())
    broken = next((one.broken for one in counted.values() if one.broken), None)
    untrue = [Untrue("sparsity.pattern", sparsity.pattern, f"broken: {broken}")] if broken else []
    share = zeros / weights.in_blocks if weights.in_blocks else 0.0
    rounds_to_zero = descriptor.format is not CheckpointFormat.DENSE
    if sparsity.measured - share > ROUNDING or (share - sparsity.measured > ROUNDING and not rounds_to_zero):
        untrue.append(Untrue("sparsity.measured", sparsity.measured, f"{share:.4f}"))
    return zeros, untrue


def _zeros_show(quantization: Quantization) -> bool:
    return quantization.symmetric and quantization.weight_bits in _COUNTED_CODE_BITS
