"""Widths that structured pruning leaves: how config.json states them, and models whose layers differ in width.

Layers that are all alike are stated in the keys that transformers itself reads, so any reader loads them. Layers that
differ are stated under a key of our own, one entry a layer: only `model_class` below builds such a model, without any
code in the checkpoint. A reader that does not know the key finds tensors of other shapes than it expects, and stops.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import PositiveInt, TypeAdapter, ValidationError
from torch import nn

from harness.architectures.blocks import Block, decoder_blocks
from harness.checkpoint import read_config
from harness.contract import Frozen, Reason
from harness.errors import BadCheckpoint, Unsupported

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS_KEY = "llmcbench_layers"


class LayerWidths(Frozen):
    """One decoder layer: its query heads, its key and value heads, its feed-forward channels."""

    heads: PositiveInt
    key_value_heads: PositiveInt
    intermediate_size: PositiveInt


_LAYERS: TypeAdapter[tuple[LayerWidths, ...]] = TypeAdapter(tuple[LayerWidths, ...])


def read_layer_widths(config: Mapping[str, Any]) -> tuple[LayerWidths, ...] | None:
    """The widths of each layer where they differ; None for a model whose layers are alike.

    Raises:
        BadCheckpoint: they are stated, but not for every layer or not as widths.
    """
    if LAYERS_KEY not in config:
        return None
    hint = "compress the checkpoint again; config.json was changed by hand"
    try:
        widths = _LAYERS.validate_python(config[LAYERS_KEY])
    except ValidationError as invalid:
        raise BadCheckpoint(f"{LAYERS_KEY} in config.json does not state widths: {invalid}", hint=hint) from invalid
    if len(widths) != config.get("num_hidden_layers"):
        raise BadCheckpoint(
            f"{LAYERS_KEY} in config.json has {len(widths)} entries for {config.get('num_hidden_layers')} layers",
            hint=hint,
        )
    return widths


def refuse_layer_widths(config: Mapping[str, Any], reader: str) -> None:
    """Raise Unsupported for a model whose layers differ in width, of which `reader` knows no such thing."""
    if LAYERS_KEY in config:
        raise Unsupported(
            Reason.SHAPE,
            f"the layers of this checkpoint differ in width, and {reader} has one width for all",
            hint="prune with `export: uniform`, or use the backend transformers",
        )


def model_class(folder: Path) -> Any:
    """What to call `from_pretrained` of: transformers' own choice, or the same class with layers of stated widths.

    Raises:
        BadCheckpoint: the widths in config.json are not usable.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    widths = read_layer_widths(read_config(folder))
    if widths is None:
        return AutoModelForCausalLM
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    base: Any = AutoModelForCausalLM._model_mapping[type(config)]
    return _with_widths(base, widths)


def _with_widths(base: "type[PreTrainedModel]", widths: Sequence[LayerWidths]) -> "type[PreTrainedModel]":
    """A subclass of the same name, so that its architecture stays what it is."""

    def make(self: Any, config: Any, *arguments: Any, **keywords: Any) -> None:
        base.__init__(self, config, *arguments, **keywords)
        for block, layer in zip(decoder_blocks(self), widths, strict=True):
            _shape(block, layer)

    return type(base.__name__, (base,), {"__init__": make, "__module__": base.__module__})


def _shape(block: Block, widths: LayerWidths) -> None:
    """Give the linears of a freshly made block the stated widths; what they hold is loaded afterwards."""
    head_size = int(block.attention.head_dim)  # type: ignore[arg-type]
    rows = {
        "q_proj": widths.heads * head_size,
        "k_proj": widths.key_value_heads * head_size,
        "v_proj": widths.key_value_heads * head_size,
    }
    into, out_of = block.groups[2], block.groups[3]
    fused = 2 if block.family.gated and len(into.linears) == 1 else 1
    for linear in block.groups[0].linears:
        resize(linear.module, rows=rows[linear.name.rpartition(".")[2]])
    for linear in block.groups[1].linears:
        resize(linear.module, columns=widths.heads * head_size)
    for linear in into.linears:
        resize(linear.module, rows=fused * widths.intermediate_size)
    for linear in out_of.linears:
        resize(linear.module, columns=widths.intermediate_size)
    note_heads(block, widths.heads)


def resize(linear: nn.Linear, *, rows: int | None = None, columns: int | None = None) -> None:
    """Replace a linear's parameters by empty ones of another size."""
    linear.out_features = rows or linear.out_features
    linear.in_features = columns or linear.in_features
    old = linear.weight
    empty = torch.empty(linear.out_features, linear.in_features, dtype=old.dtype, device=old.device)
    linear.weight = nn.Parameter(empty, requires_grad=old.requires_grad)
    if linear.bias is not None:
        bias = torch.empty(linear.out_features, dtype=old.dtype, device=old.device)
        linear.bias = nn.Parameter(bias, requires_grad=old.requires_grad)


def note_heads(block: Block, heads: int) -> None:
    """Tell an attention that counts its heads (OPT) how many there are; the others see it from the tensors."""
    if isinstance(getattr(block.attention, "num_heads", None), int):
        block.attention.num_heads = heads  # type: ignore[assignment]


def uniform_config(config: Mapping[str, Any], widths: LayerWidths, head_size: int) -> dict[str, Any]:
    """The keys of config.json that change where every layer has the same widths.

    transformers refuses a Llama whose hidden size is no multiple of its heads, although it would compute it correctly.
    Such a model is written as the Mistral without sliding window that it equals, which is not refused.
    """
    if config["model_type"] == "opt":
        return {"ffn_dim": widths.intermediate_size}
    changed: dict[str, Any] = {
        "num_attention_heads": widths.heads,
        "num_key_value_heads": widths.key_value_heads,
        "head_dim": head_size,
        "intermediate_size": widths.intermediate_size,
    }
    if config["model_type"] == "llama" and int(config["hidden_size"]) % widths.heads:
        changed |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
    return changed


def any_head_count(config: Mapping[str, Any]) -> bool:
    """Whether a uniform model may have heads that do not divide its hidden size.

    Not a Gemma 3, which transformers refuses then, and not a Llama with biases, which no Mistral equals.
    """
    if config["model_type"] == "gemma3_text":
        return False
    return config["model_type"] != "llama" or not (config.get("attention_bias") or config.get("mlp_bias"))


def heads_can_go(config: Mapping[str, Any]) -> bool:
    """Whether a uniform model can lose heads: an OPT cannot, since its config has no head size of its own."""
    return bool(config["model_type"] != "opt")


def layers_config(widths: Sequence[LayerWidths]) -> dict[str, Any]:
    """The key of config.json that states each layer's widths."""
    return {LAYERS_KEY: [layer.model_dump() for layer in widths]}
