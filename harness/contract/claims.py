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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.contract.artifact import CheckpointDescriptor, CheckpointFormat, Quantization, Sparsity
from harness.contract.ggml import BLOCK_SHAPES, BlockType
from harness.contract.matrices import QuantizedLinear, StoredWeights
from harness.contract.stored import StoredTensor
from harness.contract.weights import FLOATS, Poll, count_codes, count_zeros, most_values_of_a_row, never

ROUNDING = 0.0005
"""How far a share may be from the counted one: it may be written with three decimals."""
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_PATTERN = re.compile(r"^(\d+):(\d+)$")
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
    weights = StoredWeights.read(folder, descriptor.format)
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


def _different(where: str, said: object, found: object) -> Iterator[Untrue]:
    if said != found:
        yield Untrue(where, said, found)


def _untrue_dtype(descriptor: CheckpointDescriptor, weights: StoredWeights) -> Iterator[Untrue]:
    """Held against the dtype of most of the floating-point values that are not quantized, if there are any."""
    values: Counter[str] = Counter()
    for one in weights.plain:
        if one.dtype in _DTYPES:
            values[_DTYPES[one.dtype]] += one.values
    if values:
        yield from _different("dtype", descriptor.dtype.value, values.most_common(1)[0][0])


def _untrue_quantization(descriptor: CheckpointDescriptor, weights: StoredWeights, poll: Poll) -> Iterator[Untrue]:
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


def _untrue_linear(quantization: Quantization, linear: QuantizedLinear) -> Iterator[Untrue]:
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
    descriptor: CheckpointDescriptor, sparsity: Sparsity, weights: StoredWeights, poll: Poll
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
