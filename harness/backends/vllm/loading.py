"""One checkpoint in vLLM's offline engine: its process, which dtype, how much key-value cache, what it refuses.

The engine runs in the worker's own process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`), so /dev/shm is not needed; split over
GPUs it has a process for each of them, and needs that.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.architectures.pruned_shapes import refuse_layer_widths
from harness.backends.base import ServedWeights, products_in, served_as_dense
from harness.backends.hosting import start_up_deadline, variables_set
from harness.backends.refusals import refuse_ggml_blocks
from harness.backends.vllm.refusals import explain
from harness.checkpoint import open_checkpoint, read_config
from harness.contract import CheckpointDescriptor, CheckpointFormat, Device, DeviceKind, Dtype, Reason
from harness.environment import available_threads
from harness.errors import BadCheckpoint, Unsupported
from harness.models.loading import select_device
from harness.profiling.profile import token_weight_bytes
from harness.quantization.layouts import check_config

if TYPE_CHECKING:
    import torch

_BLOCK_TOKENS = 128
"""The largest block of either build: 128 tokens on a CPU, 16 on a GPU."""
_SPARE_BLOCKS = 1
_WHOLE_BITS = 16
_VALUE_BYTES = {Dtype.FLOAT32: 4, Dtype.BFLOAT16: 2, Dtype.FLOAT16: 2}


@dataclass(frozen=True)
class LoadedEngine:
    """`llm` is vLLM's own object; `kv_cache_tokens` is what its key-value cache was given room for."""

    llm: Any
    descriptor: CheckpointDescriptor
    dtype: Dtype
    dtype_reason: str
    vocabulary: int
    kv_cache_tokens: int
    kv_cache_bytes: int
    eager: bool
    load_seconds: float
    weights: ServedWeights
    gpus: int = 1


@contextmanager
def load_engine(
    checkpoint: Path,
    device: Device,
    dtype: Dtype | None,
    *,
    context_tokens: int,
    sequences: int,
    kv_tokens: int | None = None,
    tensor_parallel: int = 1,
    **options: Any,
) -> Iterator[LoadedEngine]:
    """vLLM with the checkpoint, for `sequences` at once of `context_tokens` each. `options` are more of `LLM`'s.

    Split over several GPUs (`tensor_parallel`), each of them has a process of its own, which ends with this one.

    `kv_tokens` None reserves keys and values for as many, in whole blocks; a spare block comes on top, and one for each
    sequence whose window may begin within a block (SlidingWindowSpec of vLLM). Nothing is reused between requests. On a
    CPU the model runs eagerly; on a GPU as vLLM does by default.

    Raises:
        BadCheckpoint: the folder is not a published checkpoint, or not stored as its descriptor says.
        Unsupported: vLLM cannot serve it here, for the reason that it gave.
        OutOfMemory: weights, cache or workspace do not fit.
    """
    descriptor, config = open_checkpoint(checkpoint), read_config(checkpoint)
    refuse_ggml_blocks("vLLM", descriptor)
    check_config(descriptor.format, descriptor.quantization, config)
    refuse_layer_widths(config, "vLLM")
    chosen, reason = _choose_dtype(descriptor, dtype)
    spare_blocks = _SPARE_BLOCKS + (sequences if config.get("sliding_window") else 0)
    kv_cache_tokens = (kv_tokens or sequences * _round_up(context_tokens)) + spare_blocks * _BLOCK_TOKENS
    kv_cache_bytes = kv_cache_tokens * _kv_bytes_per_token(config, chosen, tensor_parallel)
    eager = device.kind is DeviceKind.CPU
    arguments = {
        "model": str(checkpoint),
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "dtype": chosen.value,
        "seed": 0,
        "enforce_eager": eager,
        "max_model_len": context_tokens,
        "max_num_seqs": sequences,
        "enable_prefix_caching": False,
        "kv_cache_memory_bytes": kv_cache_bytes,  # of each GPU
        "disable_log_stats": True,
        **options,
    }
    if tensor_parallel > 1:
        arguments |= {"tensor_parallel_size": tensor_parallel, "distributed_executor_backend": "mp"}
    select_device(device, tensor_parallel)
    with _engine_environment(device):
        begin = time.perf_counter()
        with start_up_deadline("vLLM"):
            llm = _start(device, arguments)
        try:
            yield LoadedEngine(
                llm=llm,
                descriptor=descriptor,
                dtype=chosen,
                dtype_reason=reason,
                vocabulary=int(config["vocab_size"]),
                kv_cache_tokens=kv_cache_tokens,
                kv_cache_bytes=tensor_parallel * kv_cache_bytes,
                eager=eager,
                load_seconds=time.perf_counter() - begin,
                weights=_weights(checkpoint, descriptor, chosen, select_device(device, tensor_parallel)),
                gpus=tensor_parallel,
            )
        finally:
            _stop(llm)


def loading_notes(loaded: LoadedEngine) -> tuple[str, ...]:
    """How the checkpoint is run, and what of its compression the engine makes no use of."""
    descriptor = loaded.descriptor
    notes = [
        "run eagerly, one operation after the other" if loaded.eager else "compiled, with vLLM's own defaults",
        f"key-value cache of {loaded.kv_cache_tokens} tokens, reserved before the first run",
    ]
    if loaded.gpus > 1:
        notes.append(
            f"split over {loaded.gpus} GPUs by tensor parallelism, a process each; memory as their drivers tell it"
        )
    notes += served_as_dense(descriptor)
    if descriptor.format is not CheckpointFormat.DENSE:
        notes.append(f"{descriptor.format.value} weights stay packed and are computed with by vLLM's own kernels")
    return tuple(notes)


def _weights(checkpoint: Path, descriptor: CheckpointDescriptor, dtype: Dtype, where: "torch.device") -> ServedWeights:
    """Products of quantized activations are of the library's own kernels."""
    whole = descriptor.quantization is None or descriptor.quantization.activation_bits == _WHOLE_BITS
    dense = whole or descriptor.format is CheckpointFormat.DENSE
    return ServedWeights(
        token_weight_bytes(checkpoint, _VALUE_BYTES[dtype]), products_in(dtype, where) if dense else ()
    )


def _start(device: Device, arguments: Mapping[str, Any]) -> Any:
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as absent:
        raise Unsupported(
            Reason.BACKEND, f"vLLM cannot be imported: {absent}", hint="use the image `vllm`, which holds it"
        ) from absent
    built_for = current_platform.device_type
    if built_for != device.kind.value:
        raise Unsupported(
            Reason.DEVICE,
            f"this build of vLLM computes on {built_for or 'nothing that is here'}, not on {device.kind.value}",
            hint=f"install the image's lock for {device.kind.value}: it names another build",
        )
    try:
        return LLM(**arguments)
    except Exception as failure:  # the library raises whatever its parts raise
        raise explain(failure, doing="loading the checkpoint") from failure


def _stop(llm: Any) -> None:
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()


def _choose_dtype(descriptor: CheckpointDescriptor, asked: Dtype | None) -> tuple[Dtype, str]:
    """The checkpoint's own, on a CPU too: what vLLM itself would take, and what most of its kernels are made for."""
    if asked is not None:
        return asked, f"{asked.value} was asked for"
    return descriptor.dtype, f"{descriptor.dtype.value} is the checkpoint's own dtype"


def _round_up(tokens: int) -> int:
    return -(-tokens // _BLOCK_TOKENS) * _BLOCK_TOKENS


def _kv_bytes_per_token(config: Mapping[str, Any], dtype: Dtype, gpus: int) -> int:
    """On each of `gpus`, which have the key-value heads divided between them, or one of them each."""
    try:
        heads = int(config["num_attention_heads"])
        head_size = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
        layers = int(config["num_hidden_layers"])
    except KeyError as missing:
        raise BadCheckpoint(f"config.json lacks {missing}", hint="fetch the checkpoint again") from missing
    held = -(-int(config.get("num_key_value_heads") or heads) // gpus)
    return 2 * layers * held * head_size * _VALUE_BYTES[dtype]


@contextmanager
def _engine_environment(device: Device) -> Iterator[None]:
    """Set the variables that vLLM reads, all its caches below one scratch folder, and put the old ones back."""
    with (
        TemporaryDirectory(prefix="vllm-", ignore_cleanup_errors=True) as scratch,
        variables_set(_variables(device, Path(scratch))),
    ):
        yield


def _variables(device: Device, scratch: Path) -> dict[str, str]:
    """`VLLM_CPU_INT4_W4A8` is on by default, and rounds the activations of W4A16 to 8 bits where the CPU has AMX.

    An eager engine compiles its log-probabilities all the same (`vllm/v1/sample/ops/logprobs.py`, 0.32.0), which takes
    a C++ compiler that the image for a CPU has not: `TORCHDYNAMO_DISABLE` leaves that function as it was written.
    """
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(scratch / "cache"),
        "VLLM_CONFIG_ROOT": str(scratch / "config"),
        "XDG_CACHE_HOME": str(scratch / "xdg"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_CPU_INT4_W4A8": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if device.kind is DeviceKind.CPU:
        variables["OMP_NUM_THREADS"] = str(device.threads or available_threads())
        variables["TORCHDYNAMO_DISABLE"] = "1"
    return variables
