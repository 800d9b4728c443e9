"""`hf_quant_config.json`, from which TensorRT-LLM learns how a checkpoint in ModelOpt's layout is quantized."""

from collections.abc import Mapping, Sequence
from typing import Any

DOCUMENT_NAME = "hf_quant_config.json"
PRODUCER = "llmcbench"


def document(quantization: Mapping[str, Any], excluded: Sequence[str]) -> dict[str, Any]:
    """The document's content. `quantization` is what it says of the weights, `excluded` names the dense linears."""
    return {
        "producer": {"name": PRODUCER},
        "quantization": {
            **quantization,
            "kv_cache_quant_algo": None,
            "exclude_modules": list(dict.fromkeys([*excluded, "lm_head"])),
        },
    }
