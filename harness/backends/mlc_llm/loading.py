"""One checkpoint in MLC-LLM's engine: prepared in a scratch folder, served from there, removed.

`AsyncMLCEngine` is the documented engine that takes several requests at once from one thread; names and defaults are
those of `serve/engine.py` and `serve/config.py` in mlc-ai/mlc-llm 0.20.
"""

import importlib.util
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.architectures.pruned_shapes import refuse_layer_widths
from harness.backends.base import ServedWeights, ServeOrder, products_in
from harness.backends.hosting import start_up_deadline, variables_set
from harness.backends.mlc_llm.preparing import Lengths, Prepared, prepare
from harness.backends.mlc_llm.quantization import Conversion, MlcLlmOptions, choose_conversion
from harness.backends.mlc_llm.refusals import explain
from harness.checkpoint import open_checkpoint, read_config
from harness.contract import CheckpointDescriptor, Reason
from harness.errors import Unsupported
from harness.fetch.configuration import for_all_readers
from harness.models.loading import select_device
from harness.quantization.layouts import check_config

_CONVERTED_BYTES = 2
"""The most that MLC writes for a weight."""
_PAGE_TOKENS = 16
"""MLC's own `kv_cache_page_size`: keys and values are kept in pages of so many positions."""


@dataclass(frozen=True)
class PreparedModel:
    """A checkpoint ready to be served. `kv_cache_tokens` is what the engine's key-value cache is given room for."""

    prepared: Prepared
    conversion: Conversion
    descriptor: CheckpointDescriptor
    vocabulary: int
    device: str
    sequences: int
    kv_cache_tokens: int
    weights: ServedWeights


@contextmanager
def prepared_model(order: ServeOrder[MlcLlmOptions]) -> Iterator[PreparedModel]:
    """Convert and compile below the order's `work`, in a folder that is removed in the end, MLC's caches with it.

    Raises:
        BadCheckpoint: the folder is not a published checkpoint, or not stored as its descriptor says.
        Unsupported: MLC-LLM is not there, does not read this checkpoint, or would misread it.
    """
    descriptor, config = open_checkpoint(order.checkpoint), read_config(order.checkpoint)
    conversion = choose_conversion(descriptor, order.dtype, order.options.quantization)
    check_config(descriptor.format, descriptor.quantization, config)
    refuse_unread_scaling(descriptor.architecture, config)
    refuse_layer_widths(config, "MLC-LLM")
    if importlib.util.find_spec("mlc_llm") is None:
        raise Unsupported(
            Reason.BACKEND, "MLC-LLM is not installed", hint="use the image `mlc-llm`; its README says how to build it"
        )
    where = select_device(order.device)
    name = f"{where.type}:{where.index or 0}"
    with TemporaryDirectory(prefix="mlc-llm-", dir=order.work, ignore_cleanup_errors=True) as scratch:
        folder, home = Path(scratch) / "model", Path(scratch) / "home"
        with variables_set(_variables(home)), start_up_deadline("MLC-LLM"):
            # one page more: a sequence that reaches the end of its window is cut off
            prepared = prepare(
                order.checkpoint,
                folder,
                conversion,
                config=for_all_readers(config, descriptor.architecture, descriptor.dtype),
                device=name,
                lengths=Lengths(order.context_tokens + _PAGE_TOKENS, order.sequences),
            )
        yield PreparedModel(
            prepared=prepared,
            conversion=conversion,
            descriptor=descriptor,
            vocabulary=int(config["vocab_size"]),
            device=name,
            sequences=order.sequences,
            kv_cache_tokens=order.kv_tokens + order.sequences * _PAGE_TOKENS,
            weights=ServedWeights(
                max(prepared.weight_bytes - _input_embedding_bytes(config), 0), products_in(conversion.dtype, where)
            ),
        )


def refuse_unread_scaling(architecture: str, config: Mapping[str, Any]) -> None:
    """Raise Unsupported where MLC would silently leave a rotation unscaled: of all its models that are served here,
    Llama's alone reads `rope_scaling`, and of that the type `llama3` (`model/llama/llama_model.py`)."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default" or (architecture == "LlamaForCausalLM" and kind == "llama3"):
        return
    raise Unsupported(
        Reason.FORMAT,
        f"MLC-LLM does not scale the rotation of {architecture} as {kind}, and would leave it out without a word",
        hint="serve this model with another backend, such as vllm",
    )


def _input_embedding_bytes(config: Mapping[str, Any]) -> int:
    """At most, of what was converted; 0 where it is the output head as well."""
    rows = 0 if config.get("tie_word_embeddings") else int(config["vocab_size"])
    return rows * int(config["hidden_size"]) * _CONVERTED_BYTES


@contextmanager
def running_engine(model: PreparedModel) -> Iterator[tuple[Any, float]]:
    """MLC's engine, and the seconds of importing the library and loading the weights. Nothing is reused between runs.

    Raises:
        Unsupported, OutOfMemory: MLC refuses to load what it converted.
    """
    home = model.prepared.folder.parent / "home"
    with variables_set(_variables(home)):
        begin = time.perf_counter()
        with start_up_deadline("MLC-LLM"):
            engine = _start(model)
        try:
            yield engine, time.perf_counter() - begin
        finally:
            engine.terminate()


def _start(model: PreparedModel) -> Any:
    from mlc_llm.serve import AsyncMLCEngine
    from mlc_llm.serve.config import EngineConfig

    try:
        return AsyncMLCEngine(
            str(model.prepared.folder),
            model.device,
            model_lib=str(model.prepared.library),
            mode="server",
            engine_config=EngineConfig(
                max_num_sequence=model.sequences,
                max_total_sequence_length=model.kv_cache_tokens,
                kv_cache_page_size=_PAGE_TOKENS,
                prefix_cache_mode="disable",
                verbose=False,
            ),
        )
    except Exception as failure:  # the library raises whatever its parts raise
        raise explain(failure, doing="loading the converted checkpoint") from failure


def _variables(home: Path) -> dict[str, str]:
    """Nothing is compiled behind our back, nothing downloaded; caches go to a folder that is removed."""
    return {
        "MLC_JIT_POLICY": "OFF",
        "MLC_DOWNLOAD_CACHE_POLICY": "OFF",
        "MLC_LLM_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "XDG_CACHE_HOME": str(home / "xdg"),
    }
