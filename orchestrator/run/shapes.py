"""What a profile says that follows from the shapes of the stored matrices: multiply-accumulates, keys and values.

Where the matrices have the names of a decoder that is known, its operations are counted again; elsewhere they are held
between what the matrices take at least and at most. The conventions are in docs/protocols.md.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.contract import CheckpointDescriptor, CheckpointFormat, Dtype, ProfileParameters, ProfileResult
from harness.contract.claims import ROUNDING
from harness.contract.matrices import Matrices

Claim = tuple[str, object, object]
"""A field of the result, what stands there, and what should."""

_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")
_ATTENTION_OUTPUTS = (".self_attn.o_proj", ".self_attn.out_proj")
_KEYS_AND_VALUES = (".self_attn.k_proj", ".self_attn.v_proj")
_EMBEDDING = ("embed_tokens",)
_PROJECTIONS = ("project_in", "project_out")
_EXPERTS = ".experts."
_REFERENCE_BITS = 16


@dataclass(frozen=True)
class _Decoder:
    """Rows and inputs of the matrices of numbered blocks, by name, and of the others."""

    blocks: Mapping[str, tuple[int, int]]
    others: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, matrices: Matrices) -> "_Decoder":
        blocks = {name: shape for name, shape in matrices.shapes.items() if _BLOCK.search(name)}
        return cls(blocks, {name: shape for name, shape in matrices.shapes.items() if name not in blocks})

    @property
    def weights(self) -> int:
        """Of the blocks."""
        return sum(map(math.prod, self.blocks.values()))

    @property
    def attended(self) -> int | None:
        """Heads times their size, over all blocks: the inputs of the attention's outputs. None: not known."""
        inputs = {_block(name): shape[1] for name, shape in self.blocks.items() if name.endswith(_ATTENTION_OUTPUTS)}
        return sum(inputs.values()) if inputs and inputs.keys() == set(map(_block, self.blocks)) else None

    @property
    def beside_blocks(self) -> int | None:
        """Weights of the output embedding, tied or not, and of the projections of embeddings. None: not known."""
        embeddings = [math.prod(shape) for name, shape in self.others.items() if name.endswith(_EMBEDDING)]
        projections = [math.prod(shape) for name, shape in self.others.items() if name.endswith(_PROJECTIONS)]
        return embeddings[0] + sum(projections) if len(embeddings) == 1 else None

    @property
    def has_experts(self) -> bool:
        """Of which a token takes some."""
        return any(_EXPERTS in name for name in self.blocks)

    def most_operations(self, tokens: int) -> int:
        """Every matrix at every position, and an attention as wide as its block's widest matrix."""
        widest: dict[str, int] = {}
        for name, shape in self.blocks.items():
            widest[_block(name)] = max(widest.get(_block(name), 0), *shape)
        beside = sum(map(math.prod, self.others.values()))
        return tokens * (self.weights + beside) + 2 * tokens**2 * sum(widest.values())


def of_shapes(
    result: ProfileResult, parameters: ProfileParameters, matrices: Matrices, checkpoint: CheckpointDescriptor
) -> Iterator[Claim]:
    """The claims of a profile that follow from the shapes, as `orchestrator.run.claims` has them."""
    decoder = _Decoder.of(matrices)
    yield from _of_operations(result, decoder, matrices.code_bits, checkpoint)
    keys_and_values = sum(shape[0] for name, shape in decoder.blocks.items() if name.endswith(_KEYS_AND_VALUES))
    value_bytes = 4 if result.dtype is Dtype.FLOAT32 else 2
    positions = parameters.batch_size * (parameters.prompt_tokens + parameters.generate_tokens)
    most = keys_and_values * positions * value_bytes  # a window keeps fewer
    if most and result.kv_cache_bytes > most:
        yield "kv_cache_bytes", result.kv_cache_bytes, f"{most} or less"
    if result.dequantized or checkpoint.quantization is None or checkpoint.quantization.simulated:
        least = math.floor(decoder.weights * value_bytes * (1 - _zeros(checkpoint)))
        if result.memory.peak_memory_bytes < least:
            yield "memory.peak_memory_bytes", result.memory.peak_memory_bytes, f"{least} or more"


def _of_operations(
    result: ProfileResult, decoder: _Decoder, code_bits: float | None, checkpoint: CheckpointDescriptor
) -> Iterator[Claim]:
    macs, tokens = result.macs, result.macs_tokens
    if not macs:
        return
    if (whole := macs.get("macs/shape")) is None:
        yield "macs", ", ".join(sorted(macs)), "macs/shape among them"
        return
    linears = tokens * decoder.weights
    attended, beside = decoder.attended, decoder.beside_blocks
    if attended is None or beside is None or decoder.has_experts:
        least, most = 1 if decoder.has_experts else linears, decoder.most_operations(tokens)
        if not least <= whole <= most:
            yield "macs.macs/shape", whole, f"{least} to {most}"
        scaled = whole
    else:
        scaled = linears + 2 * attended * tokens**2
        yield "macs.macs/shape", whole, scaled + tokens * beside
    yield from _of_savings(macs, whole, linears, scaled, code_bits, checkpoint)


def _of_savings(
    macs: Mapping[str, int],
    whole: int,
    linears: int,
    scaled: int,
    code_bits: float | None,
    checkpoint: CheckpointDescriptor,
) -> Iterator[Claim]:
    """Zeros save their share of the blocks' matrices; the paper's also of the attention, and few bits by their square.

    The share of zeros is known up to its rounding, and of packed codes not at most: rounding makes more of them. Where
    the attention is not told from the rest, `scaled` is all, and the paper's figure between that and nothing saved.
    """
    left, rounding = 1 - _zeros(checkpoint), 2 * ROUNDING
    bits = checkpoint.quantization.weight_bits if checkpoint.quantization is not None else _REFERENCE_BITS
    share = ((bits if code_bits is None else code_bits) / _REFERENCE_BITS) ** 2
    expected = {
        "macs/density": (whole - linears + round(linears * left), linears * rounding, whole),
        "macs/paper-bitops": (whole - scaled + round(scaled * left * share), scaled * rounding * share, whole),
    }
    for name, (wanted, off, most) in expected.items():
        found = macs.get(name)
        if found is None:
            continue
        rounds_to_zero = checkpoint.format is not CheckpointFormat.DENSE and checkpoint.sparsity is not None
        is_open = name == "macs/paper-bitops" and scaled == whole
        if found > (most if is_open else wanted + off + 1) or (found < wanted - off - 1 and not rounds_to_zero):
            yield f"macs.{name}", found, f"{wanted} to {most}" if is_open else wanted


def _zeros(checkpoint: CheckpointDescriptor) -> float:
    return 0.0 if checkpoint.sparsity is None else checkpoint.sparsity.measured


def _block(name: str) -> str:
    """The name up to its block's number."""
    found = _BLOCK.search(name)
    return name[: found.end(1)] if found else ""
