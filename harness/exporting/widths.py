"""One width for all layers, which every reader's config can state: checked, or made with zeros up to the widest layer.

A head of zeros adds nothing to the attention's output, a channel of zeros nothing to the feed-forward part's, so the
padded model computes the same. It is as large and as slow as if all its layers were as wide as the widest.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.architectures.pruned_shapes import (
    LAYERS_KEY,
    LayerWidths,
    any_head_count,
    read_layer_widths,
    uniform_config,
)
from harness.contract import Exported, Reason
from harness.errors import Unsupported
from harness.exporting.conversion import Conversion, Replacement
from harness.exporting.source import Source
from harness.methods.llm_pruner.coupled import ROWS, BlockUnits, CoupledUnits, Member, block_units, by_linear, head_size


def one_width(source: Source, *, pad: bool) -> Conversion:
    """The conversion of dense weights to layers that are all alike; without `pad` they must be alike already.

    Raises:
        Unsupported: layers differ and `pad` is false, or no config of the architecture can state the common width.
    """
    layers = read_layer_widths(source.config)
    descriptor = source.descriptor
    exported = Exported(source=descriptor.digest, source_format=source.format, exact=True)
    if layers is None:
        exact = descriptor.model_copy(update={"exported": exported})
        return Conversion(replaced={}, config=source.config, descriptor=exact, linears=0)
    if not pad:
        _refuse_different(layers)
    widest = _widest(layers)
    config = _config(source, widest)
    units = [block_units(block) for block in source.blocks]
    replaced = _replaced(source, units)
    added = sum(
        (max(one.kinds[kind].units for one in units) - block.kinds[kind].units) * block.kinds[kind].parameters_per_unit
        for block in units
        for kind in (0, 1)
    )
    changes = {
        "notes": tuple(note for note in descriptor.notes if LAYERS_KEY not in note),
        "architecture": config["architectures"][0],
        "parameter_count": descriptor.parameter_count + added,
        "exported": exported.model_copy(
            update={"padded": added > 0, "unpadded_parameter_count": descriptor.parameter_count if added else None}
        ),
    }
    return Conversion(
        replaced=replaced,
        config=config,
        descriptor=descriptor.model_copy(update=changes),
        linears=len(replaced),
        notes=(f"layers padded with zeros to {widest.heads} heads and {widest.intermediate_size} channels",)
        if added
        else (),
    )


def _refuse_different(layers: Sequence[LayerWidths]) -> None:
    for index, layer in enumerate(layers):
        if layer != layers[0]:
            raise Unsupported(
                Reason.SHAPE,
                f"layer {index} has {layer.heads} heads and {layer.intermediate_size} channels, layer 0 "
                f"{layers[0].heads} and {layers[0].intermediate_size}: they are not of one width",
                hint="export with `layers: padded`, or compress with `export: uniform`",
            )


def _widest(layers: Sequence[LayerWidths]) -> LayerWidths:
    for index, layer in enumerate(layers):
        if layer.heads * layers[0].key_value_heads != layers[0].heads * layer.key_value_heads:
            raise Unsupported(
                Reason.SHAPE,
                f"layer {index} has another number of query heads for each key-value head than layer 0",
                hint="serve it with the transformers backend, which builds each layer in its own width",
            )
    return LayerWidths(
        heads=max(layer.heads for layer in layers),
        key_value_heads=max(layer.key_value_heads for layer in layers),
        intermediate_size=max(layer.intermediate_size for layer in layers),
    )


def _config(source: Source, widest: LayerWidths) -> dict[str, Any]:
    """config.json for the common width.

    transformers would compute an OPT with other heads than its config says wrongly, and cannot state others.
    """
    config = {key: value for key, value in source.config.items() if key != LAYERS_KEY}
    config.setdefault("architectures", [source.descriptor.architecture])
    opt = config["model_type"] == "opt"
    odd = int(config["hidden_size"]) % widest.heads != 0
    if (opt and widest.heads != config["num_attention_heads"]) or (odd and not any_head_count(config)):
        raise Unsupported(
            Reason.SHAPE,
            f"no config of {source.descriptor.architecture} states {widest.heads} heads in every layer",
            hint="compress with layers left out at both ends (first_layer, last_layer), so that the widest is whole",
        )
    return config | uniform_config(config, widest, head_size(source.blocks[0]))


def _replaced(source: Source, blocks: Sequence[BlockUnits]) -> dict[str, Replacement]:
    """The weights, and where rows are added the biases, of the linears that are narrower than the widest."""
    replaced: dict[str, Replacement] = {}
    for kind in (0, 1):
        wide = max(block.kinds[kind].units for block in blocks)
        for units in (block.kinds[kind] for block in blocks):
            if units.units == wide:
                continue
            for linear, dim, members in by_linear(units):
                for suffix, _ in linear.module.named_parameters():
                    if suffix == "weight" or dim == ROWS:
                        name = source.stored_name(f"{linear.name}.{suffix}")
                        replaced[name] = partial(_pad, source, name, units, members, wide)
    return replaced


def _pad(source: Source, name: str, units: CoupledUnits, members: Sequence[Member], wide: int) -> Mapping[str, Tensor]:
    """Zeros after the units of each member, so that parts that lie one after the other in a fused linear stay apart."""
    tensor = source.tensor(name)
    parts = []
    for member in members:
        part = member.part_of(tensor, units.units)
        shape = list(part.shape)
        shape[member.dim] = (wide - units.units) * member.per_unit
        parts += [part, tensor.new_zeros(shape)]
    return {name: torch.cat(parts, dim=members[0].dim)}
