"""One checkpoint in TensorRT-LLM's `LLM` on PyTorch: the process around it, the cache's size, what is refused first.

Names and defaults are those of `tensorrt_llm.llmapi` 1.2 (`TorchLlmArgs`, `KvCacheConfig` of its API reference).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.architectures.pruned_shapes import refuse_layer_widths
from harness.backends.base import ServedWeights, ServeOrder, TensorParallel, products_in
from harness.backends.hosting import start_up_deadline, variables_set
from harness.backends.refusals import refuse_unread_rotation
from harness.backends.tensorrt_llm.refusals import explain, refuse_format
from harness.checkpoint import open_checkpoint, read_config
from harness.contract import CheckpointDescriptor, CheckpointFormat, Dtype, Reason
from harness.errors import Unsupported
from harness.models.loading import TORCH_DTYPES, select_device
from harness.profiling.profile import token_weight_bytes
from harness.quantization.layouts import check_config

if TYPE_CHECKING:
    import torch

_SPARE_TOKENS = 64
"""For each sequence, beyond its length: the scheduler works one step ahead, in blocks of 32 tokens."""
_STEP_TOKENS = 8192
"""The library's own default of `max_num_tokens`: positions that one step may compute."""


@dataclass(frozen=True)
class LoadedEngine:
    """`llm` is TensorRT-LLM's own object; `kv_cache_tokens` is what its key-value cache was given room for."""

    llm: Any
    descriptor: CheckpointDescriptor
    dtype: Dtype
    dtype_reason: str
    vocabulary: int
    kv_cache_tokens: int
    load_seconds: float
    weights: ServedWeights
    gpus: int = 1


@contextmanager
def load_engine(order: ServeOrder[TensorParallel]) -> Iterator[LoadedEngine]:
    """TensorRT-LLM with the checkpoint.

    Nothing is reused between requests. CUDA graphs and the overlapping scheduler are on, as by default.

    Raises:
        BadCheckpoint: the folder is not a published checkpoint, or not stored as its descriptor says.
        Unsupported: TensorRT-LLM cannot serve it here, or would misread it.
        OutOfMemory: weights, cache or workspace do not fit.
    """
    descriptor, config = open_checkpoint(order.checkpoint), read_config(order.checkpoint)
    refuse_format(descriptor)
    check_config(descriptor.format, descriptor.quantization, config)
    refuse_unread_rotation("TensorRT-LLM", config)
    refuse_layer_widths(config, "TensorRT-LLM")
    where = select_device(order.device, order.tensor_parallel)
    chosen = order.dtype or descriptor.dtype
    kv_cache_tokens = order.kv_tokens + order.sequences * _SPARE_TOKENS
    with (
        TemporaryDirectory(prefix="tensorrt-llm-", ignore_cleanup_errors=True) as scratch,
        variables_set(_variables(Path(scratch), order.tensor_parallel)),
    ):
        begin = time.perf_counter()
        with start_up_deadline("TensorRT-LLM"):
            llm = _start(order, None if chosen is descriptor.dtype else chosen, kv_cache_tokens)
        try:
            yield LoadedEngine(
                llm=llm,
                descriptor=descriptor,
                dtype=chosen,
                dtype_reason=f"{chosen.value} {'was asked for' if order.dtype else 'is the dtype of the checkpoint'}",
                vocabulary=int(config["vocab_size"]),
                kv_cache_tokens=kv_cache_tokens,
                load_seconds=time.perf_counter() - begin,
                weights=_weights(order, descriptor, chosen, where),
                gpus=order.tensor_parallel,
            )
        finally:
            llm.shutdown()


def _weights(
    order: ServeOrder[TensorParallel], descriptor: CheckpointDescriptor, dtype: Dtype, where: "torch.device"
) -> ServedWeights:
    """8-bit floats are multiplied by the library's own kernels."""
    own = descriptor.format is CheckpointFormat.MODELOPT_FP8
    products = () if own else products_in(dtype, where)
    return ServedWeights(token_weight_bytes(order.checkpoint, TORCH_DTYPES[dtype].itemsize), products)


def _start(order: ServeOrder[TensorParallel], other_dtype: Dtype | None, kv_cache_tokens: int) -> Any:
    """`other_dtype` is None for that of config.json, in which the PyTorch path computes whatever `dtype` it is given
    (`_torch/pyexecutor/model_loader.py`, `_torch/model_config.py`): another one has to change the configuration."""
    changed = {"torch_dtype": other_dtype.value} if other_dtype else None
    try:
        from tensorrt_llm import LLM
        from tensorrt_llm.llmapi import KvCacheConfig
    except ImportError as absent:
        raise Unsupported(
            Reason.BACKEND,
            f"TensorRT-LLM cannot be imported: {absent}",
            hint="use the image `tensorrt-llm`, which is built on NVIDIA's release image",
        ) from absent
    try:
        return LLM(
            model=str(order.checkpoint),
            skip_tokenizer_init=True,
            trust_remote_code=False,
            tensor_parallel_size=order.tensor_parallel,
            model_kwargs=changed,
            max_batch_size=order.sequences,
            max_seq_len=order.context_tokens,
            max_num_tokens=max(_STEP_TOKENS, order.context_tokens),
            kv_cache_config=KvCacheConfig(enable_block_reuse=False, max_tokens=kv_cache_tokens),
        )
    except Exception as failure:  # the library raises whatever its parts raise
        raise explain(failure, doing="loading the checkpoint") from failure


def _variables(scratch: Path, gpus: int) -> dict[str, str]:
    """`TLLM_WORKER_USE_SINGLE_PROCESS`: by default even one GPU has a worker that MPI spawns, and in some releases
    that fails inside containers. Several GPUs have one each."""
    return ({"TLLM_WORKER_USE_SINGLE_PROCESS": "1"} if gpus == 1 else {}) | {
        "TLLM_LOG_LEVEL": "ERROR",
        "TRTLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "XDG_CACHE_HOME": str(scratch / "xdg"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
    }
