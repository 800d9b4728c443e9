"""What llama.cpp is told of a model by a GGUF file's fields, and which models it has no words for.

Source: the GGUF specification, and the names and keys of the package `gguf`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.architectures.pruned_shapes import read_layer_widths
from harness.architectures.windows import shortest_window
from harness.checkpoint import read_config
from harness.contract import Reason
from harness.errors import Unsupported

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PretrainedConfig

_HINT = "serve it with `transformers` or `vllm`"
_LAYERS_OF_27B = 62


@dataclass(frozen=True)
class WrittenFamily:
    """`pairs_neighbours`: its rotary embedding turns rows 2i and 2i+1 together, not i and i + half as the checkpoint's.

    `biased` are the linears that have a bias. `windowed`: the file says which layers have a window, and how long it is.
    """

    architecture: str
    pairs_neighbours: bool
    biased: tuple[str, ...] = ()
    activation: str = "silu"
    windowed: bool = False


_FAMILIES = {
    "llama": WrittenFamily("llama", pairs_neighbours=True),
    "mistral": WrittenFamily("llama", pairs_neighbours=True),
    "qwen2": WrittenFamily("qwen2", pairs_neighbours=False, biased=("q_proj", "k_proj", "v_proj")),
    "qwen3": WrittenFamily("qwen3", pairs_neighbours=False),
    "gemma3_text": WrittenFamily("gemma3", pairs_neighbours=False, activation="gelu_pytorch_tanh", windowed=True),
}


def family_of(config: "PretrainedConfig") -> WrittenFamily:
    """Raises Unsupported where no file is written for the model's type."""
    if config.model_type not in _FAMILIES:
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"no GGUF file is written for model type {config.model_type!r}",
            hint=f"{_HINT}; written are: {', '.join(_FAMILIES)}",
        )
    return _FAMILIES[config.model_type]


def refuse_model(checkpoint: Path, config: Any, family: WrittenFamily, context_tokens: int) -> None:
    """Hold a model against what it can be in transformers, and the file has no place for or is not written with.

    Raises:
        Unsupported: it is so; the message says what.
    """
    if read_layer_widths(read_config(checkpoint)) is not None:
        raise Unsupported(Reason.SHAPE, "its layers differ in width, and no GGUF file is written for that", hint=_HINT)
    window = shortest_window(config)
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    rotary = rotary_parameters(config, "full_attention")
    reasons = {
        f"attention reaches back {window} positions, which the file cannot say": window is not None
        and window < context_tokens
        and not family.windowed,
        "its linears have biases": bool(getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)),
        f"its activation is {activation}": activation != family.activation,
        f"its rotary embedding is of type {rotary['rope_type']}": rotary["rope_type"]
        not in (("default",) if family.windowed else ("default", "llama3")),
        "its rotary embedding turns a part of each head": rotary.get("partial_rotary_factor", 1.0) != 1.0,
    }
    if family.windowed:
        reasons |= _objections_to_windows(config)
    for reason, applies in reasons.items():
        if applies:
            raise Unsupported(Reason.ARCHITECTURE, f"no GGUF file is written for it: {reason}", hint=_HINT)


def _objections_to_windows(config: Any) -> dict[str, bool]:
    """What a Gemma 3 may be and llama.cpp's is not: it has the 27B model's scale where there are as many layers."""
    local = rotary_parameters(config, "sliding_attention")
    return {
        "full and sliding layers do not take turns, one full in so many": _full_layers_every(config) is None,
        f"its sliding layers' rotary embedding is of type {local['rope_type']}": local["rope_type"] != "default",
        "its attention's scale is not that of its head size": config.query_pre_attn_scalar != head_size(config)
        or config.num_hidden_layers == _LAYERS_OF_27B,
        "its logits are capped": getattr(config, "final_logit_softcapping", None) is not None,
    }


def _full_layers_every(config: Any) -> int | None:
    """Every so many layers the last one is full, all others slide; None where it is otherwise."""
    full = [kind == "full_attention" for kind in config.layer_types]
    every = full.index(True) + 1 if any(full) else len(full) + 1
    return every if full == [(index + 1) % every == 0 for index in range(len(full))] else None


def rotary_parameters(config: Any, kind: str) -> dict[str, Any]:
    """Of the layers of a kind: some configurations have one rotary embedding for all."""
    parameters: dict[str, Any] = config.rope_parameters
    of_kind: dict[str, Any] = parameters.get(kind, parameters)
    return of_kind


def head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def add_fields(writer: "GGUFWriter", config: Any) -> None:
    """The model's numbers."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(float(rotary_parameters(config, "full_attention")["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    if family_of(config).windowed and shortest_window(config) is not None:
        _add_windows(writer, config)


def _add_windows(writer: "GGUFWriter", config: Any) -> None:
    """Which layers slide, how far they reach, and the base of their own rotary embedding."""
    writer.add_sliding_window(shortest_window(config) or 0)
    writer.add_sliding_window_pattern(_full_layers_every(config) or 0)
    writer.add_rope_freq_base_swa(float(rotary_parameters(config, "sliding_attention")["rope_theta"]))
