"""`config.json` of a fetched model: whether we can load it without remote code, and a form that all readers know."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.architectures.pruned_shapes import LAYERS_KEY
from harness.architectures.usable import read_architecture
from harness.checkpoint import CONFIG_NAME
from harness.contract import Dtype, Reason
from harness.errors import BadCheckpoint, Unsupported

_QUOTED_CHARACTERS = 80
_LEFT_OUT = frozenset({"auto_map", "_name_or_path", "_model_name_or_path"})


_NULL_IS_ABSENT = frozenset({"architectures", "auto_map", "quantization_config", LAYERS_KEY})
"""Keys of which transformers takes `null` for "not there"; of others `null` can be a value, as for `sliding_window`."""

_MOST_LAYERS = 10_000
"""More than any model has; a module is made of each before a weight is looked at."""
_Layers = Annotated[int, Field(gt=0, le=_MOST_LAYERS)] | None
_Size = Annotated[int, Field(gt=0, lt=2**31)]
_Sizes = _Size | list[_Size] | None


class _KnownKeys(BaseModel):
    """The keys of config.json that this project reads itself, and what each may hold where it is there."""

    model_config = ConfigDict(strict=True)

    model_type: str
    architectures: list[str] | None = None
    auto_map: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    tie_word_embeddings: bool | None = None
    hidden_size: _Sizes = None
    intermediate_size: _Sizes = None
    ffn_dim: _Sizes = None
    word_embed_proj_dim: _Sizes = None
    num_hidden_layers: _Layers = None
    num_attention_heads: _Sizes = None
    num_key_value_heads: _Sizes = None
    head_dim: _Sizes = None
    vocab_size: _Size | None = None
    max_position_embeddings: int | None = None
    sliding_window: int | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None


def known_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the keys whose `null` means that they are not there.

    Raises:
        BadCheckpoint: a key that this project reads holds something of another kind.
    """
    try:
        _KnownKeys.model_validate(dict(config))
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        key = str(first["loc"][0])
        found = f"is {repr(config[key])[:_QUOTED_CHARACTERS]}" if key in config else "is missing"
        raise BadCheckpoint(
            f"{key} in {CONFIG_NAME} {found}: {first['msg']}", hint=f"copy or download {CONFIG_NAME} again, or mend it"
        ) from invalid
    return {key: value for key, value in config.items() if value is not None or key not in _NULL_IS_ABSENT}


def check_loadable(given: Mapping[str, Any]) -> str:
    """The architecture's class name, once transformers is known to have it without remote code.

    Raises:
        Unsupported: remote code, an architecture that is unknown, not causal or cannot be computed with here, or
            weights that are quantized already.
        BadCheckpoint: the config holds what no config can.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = known_keys(given)
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise Unsupported(
            Reason.FORMAT,
            f"the model is quantized already ({method}), so there is nothing dense to compare with",
            hint="fetch the unquantized model; compression is done by a method of this project",
        )
    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING:
        needs = "needs the repository's own code (auto_map)" if "auto_map" in config else "is not known to transformers"
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"model type {model_type!r} {needs}",
            hint="choose a model that transformers has itself",
        )
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, ())
    causal = (known,) if isinstance(known, str) else tuple(known)
    named = tuple(config.get("architectures") or causal)
    if not named or named[0] not in causal:
        raise Unsupported(
            Reason.ARCHITECTURE,
            f"{named[0] if named else model_type!r} is not a causal language model",
            hint="choose a model with a language modelling head",
        )
    read_architecture(config)
    return str(named[0])


def for_all_readers(config: Mapping[str, Any], architecture: str, dtype: Dtype) -> dict[str, Any]:
    """The config with both the new and the old names of what transformers 5 renamed, and without remote code.

    Whether the embeddings are tied is always said: its default differs from one model type to another.
    """
    mended = {key: value for key, value in known_keys(config).items() if key not in _LEFT_OUT}
    mended["tie_word_embeddings"] = bool(read_architecture(mended).tie_word_embeddings)
    mended |= {"architectures": [architecture], "dtype": dtype.value, "torch_dtype": dtype.value}
    rope = mended.get("rope_parameters")
    if isinstance(rope, dict) and not any(isinstance(value, dict) for value in rope.values()):
        if "rope_theta" in rope:
            mended.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            mended.setdefault("rope_scaling", {"type": rope["rope_type"], **scaling})
    return mended
