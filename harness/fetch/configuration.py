"""`config.json` of a fetched model: whether we can load it without remote code, and a form that all readers know."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.checkpoint import TensorEntry
from harness.contract import Dtype, Reason
from harness.errors import BadCheckpoint, Unsupported

_LEFT_OUT = frozenset({"auto_map", "_name_or_path", "_model_name_or_path"})


def check_loadable(config: Mapping[str, Any]) -> str:
    """The architecture's class name, once transformers is known to have it without remote code.

    Raises:
        Unsupported: remote code, an unknown or non-causal architecture, or weights that are quantized already.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if "quantization_config" in config:
        method = dict(config["quantization_config"]).get("quant_method", "unknown")
        raise Unsupported(
            Reason.FORMAT,
            f"the model is quantized already ({method}), so there is nothing dense to compare with",
            hint="fetch the unquantized model; compression is done by a method of this project",
        )
    model_type = str(config.get("model_type"))
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
    return str(named[0])


def for_all_readers(config: Mapping[str, Any], architecture: str, dtype: Dtype) -> dict[str, Any]:
    """The config with both the new and the old names of what transformers 5 renamed, and without remote code."""
    mended = {key: value for key, value in config.items() if key not in _LEFT_OUT}
    mended |= {"architectures": [architecture], "dtype": dtype.value, "torch_dtype": dtype.value}
    rope = mended.get("rope_parameters")
    if isinstance(rope, dict) and not any(isinstance(value, dict) for value in rope.values()):
        if "rope_theta" in rope:
            mended.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            mended.setdefault("rope_scaling", {"type": rope["rope_type"], **scaling})
    return mended


def count_parameters(folder: Path, tensors: Mapping[str, TensorEntry]) -> int:
    """Parameters of the model that `folder/config.json` describes, tied ones once, without allocating any.

    Raises:
        BadCheckpoint: transformers cannot read the config, or a stored tensor has another shape than it says.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))  # type: ignore[no-untyped-call]
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as invalid:
        raise BadCheckpoint(
            f"transformers cannot build the model that config.json describes: {invalid}",
            hint="copy or download config.json again",
        ) from invalid
    for name, parameter in model.named_parameters():
        stored = tensors.get(name)
        if stored is not None and stored.shape != tuple(parameter.shape):
            raise BadCheckpoint(
                f"{name} is stored as {stored.shape}, but config.json says {tuple(parameter.shape)}",
                hint="the config and the weights come from different models; copy or download them together",
            )
    return sum(parameter.numel() for parameter in model.parameters())
