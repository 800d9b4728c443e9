"""Writing a model whose heads and channels were cut: uniform, so that anything reads it, or with layers that differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.architectures.pruned_shapes import LAYERS_KEY, LayerWidths, layers_config, uniform_config
from harness.checkpoint import read_config
from harness.methods.base import CompressionContext
from harness.methods.llm_pruner.coupled import head_size
from harness.methods.skeleton.saving import Replacement, write_checkpoint
from harness.models.renamed import keep_tokenizer


@dataclass(frozen=True)
class Stated:
    """How the pruned model will be written; see `Outcome` for the fields."""

    write: Callable[[Path], None]
    architecture: str | None
    notes: tuple[str, ...]


def write_pruned(context: CompressionContext, widths: Sequence[LayerWidths], *, uniform: bool) -> Stated:
    """State the widths of the model as it now is. With `uniform` they must be the same in every layer."""
    source = read_config(context.source)
    if not uniform:
        config = layers_config(widths)
        note = (
            f"layers of different widths, under {LAYERS_KEY} in config.json: this harness loads it as an ordinary "
            "model; no other reader or engine does"
        )
        return Stated(lambda staging: _write(context, staging, config), None, (note,))
    (common,) = set(widths)
    config = uniform_config(source, common, head_size(context.blocks[0]))
    if "architectures" not in config:
        return Stated(lambda staging: _write(context, staging, config), None, ())
    note = (
        f"written as {config['architectures'][0]}, without a sliding window: the same computation, but transformers "
        f"refuses a {type(context.model).__name__} whose {common.heads} heads do not divide its hidden size"
    )
    return Stated(lambda staging: _write_renamed(context, staging, config), config["architectures"][0], (note,))


def _write(context: CompressionContext, staging: Path, config: Mapping[str, Any]) -> None:
    replaced: dict[str, Replacement] = {}
    for block in context.blocks:
        for linear in block.linears:
            for suffix, parameter in linear.module.named_parameters():
                name = f"{linear.name}.{suffix}"
                replaced[name] = _make(name, parameter)
    write_checkpoint(context.source, staging, replaced, context.model.base_model_prefix, config=config, reshaped=True)


def _make(name: str, parameter: Tensor) -> Replacement:
    return lambda: {name: parameter.detach()}


def _write_renamed(context: CompressionContext, staging: Path, config: Mapping[str, Any]) -> None:
    _write(context, staging, config)
    keep_tokenizer(context.tokenizer, staging, config["architectures"][0])
