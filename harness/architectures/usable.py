"""Whether transformers has a model in a form that this project can compute with, from config.json alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported

ATTENTION = "sdpa"
"""The attention that every model computes with here: exact on every device, and never a matrix of all scores."""

_HINT = "remote code is never run; use a model whose architecture is part of transformers, such as Llama or Qwen"


def read_architecture(config: Mapping[str, Any]) -> Any:
    """The configuration as transformers reads it, for a causal language model that can be used here.

    Raises:
        Unsupported: transformers does not know the model type without remote code; the model keeps its language model
            within another one, sees what follows, states no context length, or has no attention that can be computed
            with here.
        BadCheckpoint: transformers cannot read the configuration.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = str(config.get("model_type"))
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or model_type not in CONFIG_MAPPING:
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"model_type {model_type!r} is no causal language model that transformers knows without remote code",
            hint=_HINT,
        )
    with explained_config():
        read = CONFIG_MAPPING[model_type].from_dict(dict(config))
        classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(read)]
        known: tuple[Any, ...] = classes if isinstance(classes, tuple) else (classes,)
    named = next((one for one in known if one.__name__ in (config.get("architectures") or ())), known[0])
    if why := _why_not(named, read):
        raise Unsupported(Reason.ARCHITECTURE, f"{named.__name__} {why}", hint=_HINT)
    return read


@contextmanager
def explained_config() -> Iterator[None]:
    """Turns what transformers raises about a configuration into BadCheckpoint."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as invalid:
        raise BadCheckpoint(
            f"transformers cannot build the model that config.json describes: {invalid}",
            hint="copy or download config.json again",
        ) from invalid


def _why_not(model_class: Any, config: Any) -> str | None:
    if config.get_text_config() is not config:
        return "keeps its language model within a model of several parts, which is not taken out here"
    if not model_class._supports_sdpa:
        return f"has no {ATTENTION} attention in transformers, with which every model is computed here"
    if getattr(config, "use_bidirectional_attention", None):
        return "sees the tokens that follow as well (use_bidirectional_attention), so that it predicts none"
    context = getattr(config, "max_position_embeddings", None)
    if not isinstance(context, int) or context < 1:
        return "states no context length (max_position_embeddings), which texts are cut by"
    return None
