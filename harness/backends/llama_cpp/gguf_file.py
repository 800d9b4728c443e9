"""A checkpoint as a GGUF file that llama.cpp loads: the names, numbers, types and the order of rows that it expects.

Covered: Llama, Mistral, Qwen2 and Qwen3 with plain or `llama3` rotary embeddings, Gemma 3 with plain ones. Quantized
linears stay what they are: codes with scales are laid into blocks (`harness.quantization.ggml`), and blocks of a `gguf`
checkpoint are copied. The file holds no tokenizer: prompts are token numbers here. Source: the GGUF specification, and
the names and keys of the package `gguf`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.architectures.blocks import family_named
from harness.backends.llama_cpp.gguf_fields import (
    WrittenFamily,
    add_fields,
    family_of,
    head_size,
    refuse_model,
    rotary_parameters,
)
from harness.checkpoint import open_checkpoint, read_tensors
from harness.contract import Reason
from harness.contract.ggml import BlockType
from harness.errors import BadCheckpoint, Unsupported
from harness.models.loading import load_config, packed_format
from harness.models.packed import QuantizedLinears
from harness.quantization.ggml.blocks import BlockWeight, lay_into_blocks, type_for

if TYPE_CHECKING:
    from gguf import GGUFWriter

_BLOCK = 32
"""Values of a row that share one scale in Q8_0 and Q4_0."""
_INPUT_EMBEDDING = "token_embd.weight"

FindName = Callable[..., str | None]
"""What the package `gguf` calls a tensor, by its name in a checkpoint; None where it knows none like it."""


class Kind(StrEnum):
    """What the dense matrices of a file are stored as. Q8_0 and Q4_0 round to nearest, with one scale for 32 values."""

    F32 = "float32"
    F16 = "float16"
    BF16 = "bfloat16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


@dataclass
class Written:
    """How many matrices lie in each of llama.cpp's types, and the most that laying codes into blocks changed a weight:
    as a share of its group's step, by type. `embedding_bytes` are the input embedding's."""

    embedding_bytes: int = 0
    types: Counter[str] = field(default_factory=Counter)
    changes: dict[BlockType, float] = field(default_factory=dict)


def write_gguf(checkpoint: Path, target: Path, kind: Kind, *, context_tokens: int) -> Written:
    """Write dense matrices as `kind`, the embeddings too, quantized ones in the blocks that hold them, and vectors in
    float32; one tensor in memory at a time.

    `context_tokens` is the longest sequence to be served: a window of attention must reach as far.

    Raises:
        Unsupported: the architecture, or a property of this model, is none that is written here; or no type holds its
            codes.
        BadCheckpoint: a tensor is missing, or there is one that the architecture does not have.
    """
    from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map

    config = load_config(checkpoint)
    family = family_of(config)
    refuse_model(checkpoint, config, family, context_tokens)
    _refuse_rows(config, kind)
    architecture = next(one for one in MODEL_ARCH if one.name == family.architecture.upper())
    names = get_tensor_name_map(architecture, int(config.num_hidden_layers))
    writer = GGUFWriter(target, family.architecture)
    add_fields(writer, config)
    written = Written()
    with ExitStack() as opened:
        linears = _open_linears(checkpoint, opened)
        tensors = [*_rotary_tensors(config), *_plain_tensors(checkpoint, config, family, names.get_name, linears)]
        if linears is not None:
            tensors += _quantized_tensors(config, family, names.get_name, linears, written)
        for one in tensors:
            one.announce(writer, kind)
            written.types[one.stored_as(kind).name] += len(one.shape) > 1
            if one.name == _INPUT_EMBEDDING:
                written.embedding_bytes = one.bytes_as(kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in tensors:
            writer.write_tensor_data(one.load(kind))
    writer.close()
    written.types = +written.types
    return written


def _refuse_rows(config: Any, kind: Kind) -> None:
    if kind not in (Kind.Q8_0, Kind.Q4_0):
        return
    if odd := [one for one in (config.hidden_size, config.intermediate_size) if one % _BLOCK]:
        raise Unsupported(
            Reason.SHAPE, f"rows of {odd[0]} values are no multiple of {_BLOCK}", hint="serve it with weights=dense"
        )


@dataclass(frozen=True)
class _Stored:
    """A tensor of the file: `read` gives it in the order of the file, in whatever dtype the checkpoint has; with a
    `block_type`, its blocks in bytes."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    block_type: BlockType | None = None

    def bytes_as(self, kind: Kind) -> int:
        from gguf.quants import quant_shape_to_byte_shape

        return math.prod(quant_shape_to_byte_shape(self.shape, self.stored_as(kind)))

    def announce(self, writer: "GGUFWriter", kind: Kind) -> None:
        import numpy
        from gguf.quants import quant_shape_to_byte_shape

        stored = self.stored_as(kind)
        in_bytes = quant_shape_to_byte_shape(self.shape, stored)
        writer.add_tensor_info(self.name, in_bytes, numpy.dtype(numpy.uint8), math.prod(in_bytes), raw_dtype=stored)

    def load(self, kind: Kind) -> Any:
        """A numpy array with the bytes of the file."""
        from gguf.quants import quantize

        if self.block_type is not None:
            return self.read().numpy()
        return quantize(self.read().float().numpy(), self.stored_as(kind))

    def stored_as(self, kind: Kind) -> Any:
        """The package's own word for it; vectors are always float32."""
        from gguf import GGMLQuantizationType

        if self.block_type is not None:
            return GGMLQuantizationType[self.block_type.name]
        return GGMLQuantizationType[kind.name if len(self.shape) > 1 else Kind.F32.name]


def _rotary_tensors(config: Any) -> Iterator[_Stored]:
    """What the frequencies are divided by, where they are not a plain power of the base: float32 [half a head]."""
    if rotary_parameters(config, "full_attention")["rope_type"] == "default":
        return
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    half = head_size(config) // 2
    plain = float(config.rope_parameters["rope_theta"]) ** -(torch.arange(half, dtype=torch.float64) / half)
    scaled, _ = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, torch.device("cpu"))
    factors = (plain / scaled.double()).float()
    yield _Stored("rope_freqs.weight", (half,), lambda: factors)


def _open_linears(checkpoint: Path, opened: ExitStack) -> QuantizedLinears | None:
    """The quantized linears; None where there are none."""
    packed = packed_format(checkpoint, open_checkpoint(checkpoint))
    return None if packed is None else opened.enter_context(QuantizedLinears.open(checkpoint, packed))


def _plain_tensors(
    checkpoint: Path, config: Any, family: WrittenFamily, find_name: FindName, linears: QuantizedLinears | None
) -> Iterator[_Stored]:
    quantized = frozenset() if linears is None else linears.tensors
    for name, entry in sorted(read_tensors(checkpoint).items()):
        if name not in quantized:
            target = _target(name, family, find_name)
            yield _Stored(target, tuple(entry.shape), _reader(checkpoint, name, config, family))


def _quantized_tensors(
    config: Any, family: WrittenFamily, find_name: FindName, linears: QuantizedLinears, written: Written
) -> Iterator[_Stored]:
    for linear in sorted(linears.names):
        weight = linears.read_stored(linear)
        block_type = weight.block_type if isinstance(weight, BlockWeight) else type_for(linears.read(linear))
        name = f"{linear}.weight"
        read = partial(_read_blocks, linears, linear, config, family, written)
        yield _Stored(_target(name, family, find_name), weight.shape, read, block_type)


def _read_blocks(
    linears: QuantizedLinears, linear: str, config: Any, family: WrittenFamily, written: Written
) -> Tensor:
    """uint8 [rows, bytes of a row]."""
    weight = linears.read_stored(linear)
    if not isinstance(weight, BlockWeight):
        laid = lay_into_blocks(linears.read(linear))
        weight = laid.weight
        written.changes[weight.block_type] = max(written.changes.get(weight.block_type, 0.0), laid.largest_change)
    return _in_order(weight.blocks, f"{linear}.weight", config, family)


def _target(name: str, family: WrittenFamily, find_name: FindName) -> str:
    """What a tensor of the checkpoint is called in the file."""
    target = find_name(name, try_suffixes=(".weight", ".bias"))
    if target is None or (name.endswith(".bias") and name.split(".")[-2] not in family.biased):
        raise BadCheckpoint(f"{family.architecture} has no tensor like {name!r}", hint="fetch the checkpoint again")
    return target


def _reader(checkpoint: Path, name: str, config: Any, family: WrittenFamily) -> Callable[[], Tensor]:
    from safetensors import safe_open

    file = checkpoint / read_tensors(checkpoint)[name].file
    offset = _norm_offset(config) if name.split(".")[-2].endswith("norm") else 0

    def read() -> Tensor:
        with safe_open(file, framework="pt") as opened:
            values: Tensor = opened.get_tensor(name)
        return _in_order(values.float() + offset if offset else values, name, config, family)

    return read


def _norm_offset(config: Any) -> int:
    """llama.cpp multiplies by a norm's weight as it is stored, in every architecture."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return family_named(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]).norm_offset


def _in_order(values: Tensor, name: str, config: Any, family: WrittenFamily) -> Tensor:
    """Rows of queries and keys as the file has them; `name` is a tensor's in the checkpoint."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    return neighbouring(values, heads) if family.pairs_neighbours and heads else values


def neighbouring(rows: Tensor, heads: int) -> Tensor:
    """Rows [heads * size, ...] with i and i + size / 2 of every head laid side by side, as 2i and 2i + 1."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)
