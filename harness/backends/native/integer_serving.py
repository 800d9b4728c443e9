"""The linears of a quantized checkpoint computed from its integer codes, where there are kernels for them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.backends.native.fused_blocks import JoinedLinear
from harness.checkpoint import read_config, read_tensors
from harness.contract import CheckpointDescriptor, CheckpointFormat
from harness.errors import WorkerError
from harness.kernels.integer.linears import CodesLinear, Int8Linear
from harness.kernels.integer.weights import BITS, LEAST_GROUP, pack, stack
from harness.kernels.scratch import Scratch
from harness.models.packed import PackedFormat, QuantizedLinears

if TYPE_CHECKING:
    from harness.kernels.integer.choice import Choice, Choices

_WHOLE_BITS = 16
_EIGHTHS = 8
_KERNEL_DTYPES = (torch.float16, torch.bfloat16)


def obstacle(
    checkpoint: Path, descriptor: CheckpointDescriptor, packed: PackedFormat, dtype: torch.dtype
) -> str | None:
    """Why the checkpoint's linears cannot be computed from their codes; None where all can."""
    scheme = packed.scheme
    if descriptor.quantization is None or descriptor.quantization.attention_bits is not None:
        return "queries, keys and values are quantized in simulation"
    if descriptor.format is CheckpointFormat.INT_QUANTIZED:
        whole = {size for entry in read_tensors(checkpoint).values() if entry.dtype == "I8" for size in entry.shape}
        uneven = [size for size in whole if size % _EIGHTHS]
        return f"the product of 8-bit integers takes sizes of whole eighths, not {min(uneven)}" if uneven else None
    if scheme.activation_bits < _WHOLE_BITS:
        return f"no kernel here multiplies activations of {scheme.activation_bits} bits"
    if scheme.bits not in BITS:
        return f"the kernels read {' and '.join(map(str, BITS))} bits, not {scheme.bits}"
    if scheme.act_order:
        return "the kernels know no groups in the order of the activations"
    sizes = [scheme.group_size] if scheme.group_size else _widths(read_config(checkpoint))
    if odd := [size for size in sizes if size % LEAST_GROUP]:
        return f"groups of {min(odd)} inputs are no multiple of {LEAST_GROUP}"
    if dtype not in _KERNEL_DTYPES:
        return f"the kernels compute in 16-bit floats, not in {dtype}"
    return None


def _widths(config: Mapping[str, Any]) -> list[int]:
    """The numbers of inputs that a decoder's linears have, as far as its configuration states them."""
    heads, head_size = config.get("num_attention_heads"), config.get("head_dim")
    attention = heads * head_size if heads and head_size else None
    middle = config.get("intermediate_size") or config.get("ffn_dim")
    return [int(size) for size in (config.get("hidden_size"), attention, middle) if size]


def use_codes(model: nn.Module, checkpoint: Path, packed: PackedFormat, dtype: torch.dtype) -> str:
    """Replace every quantized linear of `model`, which lies in host memory, by a layer over its codes, in place.

    `obstacle` must have found none. Linears that were joined are replaced whole. Returns a note.

    Raises:
        WorkerError: the checkpoint has codes that no linear of the model stands for.
    """
    scratch = Scratch()
    integers = packed.checkpoint_format is CheckpointFormat.INT_QUANTIZED
    count, used = 0, set()
    with QuantizedLinears.open(checkpoint, packed) as stored:
        for path, linear, names in list(_standing_for(model, stored.names)):
            weight = stack([stored.read(name) for name in names])
            bias = None if linear.bias is None else linear.bias.detach()
            layer = Int8Linear(weight, bias) if integers else CodesLinear(pack(weight, dtype), bias, scratch)
            model.set_submodule(path, layer)
            count += 1
            used |= set(names)
        if left := sorted(stored.names - used):
            raise WorkerError(
                f"{len(left)} quantized linears have no place in the model, the first {left[0]}",
                hint="ask for codes=off, and report this architecture",
            )
    how = "products of 8-bit integers" if integers else "kernels of this project for quantized weights"
    return f"{count} linears computed from their codes by {how}"


def measure_choices(model: nn.Module, dtype: torch.dtype, tokens: Sequence[int]) -> tuple[str, ...]:
    """Give every layer over packed codes the fastest way on its CUDA device for each of these numbers of tokens.

    Returns notes, a shape each: what was chosen, and how fast it is.
    """
    from harness.kernels.integer.choice import measure

    tables: dict[tuple[int, int], Choices] = {}
    for layer in model.modules():
        if isinstance(layer, CodesLinear):
            shape = (layer.out_features, layer.in_features)
            if shape not in tables:
                tables[shape] = measure(layer.weight, dtype, tokens=tokens)
            layer.choices = tables[shape]
    return tuple(
        f"{rows} x {inputs} as fast as dense, by tokens at once: "
        + ", ".join(_described(choice, table) for choice in table.ordered)
        for (rows, inputs), table in tables.items()
    )


def _described(choice: "Choice", table: "Choices") -> str:
    gain = table.speed_up(choice.tokens)
    speed = "not measured" if gain is None else f"{gain:.2f}x"
    return f"{speed} at {choice.tokens} ({'made dense' if choice.launch is None else choice.launch})"


def _standing_for(model: nn.Module, stored: frozenset[str]) -> Iterator[tuple[str, nn.Linear, list[str]]]:
    """Each linear with codes: where it stands in the model, itself, and its parts' names in the checkpoint."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            parent = path.rpartition(".")[0]
            names = [f"{parent}.{part}" for part in module.joined_from] if isinstance(module, JoinedLinear) else [path]
            if stored.issuperset(names):
                yield path, module, names
