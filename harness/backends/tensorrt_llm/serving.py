"""Speed of TensorRT-LLM: the same prompts continued by one token and by all of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from harness.backends.base import Backend, EngineInfo, ServeOrder, TensorParallel, served_as_dense
from harness.backends.differences import Batch, WholeBatchEngine, generate_offline
from harness.backends.prompts import Prompts
from harness.backends.serving_memory import ServingPeak, peaks_of_devices, peaks_of_everything
from harness.backends.tensorrt_llm.loading import LoadedEngine, load_engine
from harness.backends.tensorrt_llm.refusals import explain
from harness.contract import CheckpointFormat, MemoryParts
from harness.device_telemetry import gpu_uuids
from harness.models.loading import select_device

NOT_RUN = (
    "not run by us: written to TensorRT-LLM's documented interface and tested against a stand-in;"
    " `orchestrator backends verify tensorrt-llm` checks it on your machine"
)
_NO_TOKEN = -1
"""The end and padding token of `trtllm-bench` where generation must not stop."""


class TensorRtLlmEngine(WholeBatchEngine):
    """A checkpoint in TensorRT-LLM. See `harness.backends.base.Engine`."""

    def __init__(self, loaded: LoadedEngine, peak: ServingPeak) -> None:
        info = EngineInfo(loaded.dtype, loaded.dtype_reason, loaded.load_seconds, notes=_notes(loaded))
        memory_parts = MemoryParts(
            absent={
                "kv_cache_bytes": f"TensorRT-LLM does not tell it; room for {loaded.kv_cache_tokens} tokens was asked"
                " for",
                **dict.fromkeys(
                    ("weight_bytes", "activation_bytes", "overhead_bytes"), "TensorRT-LLM does not tell it"
                ),
            }
        )
        super().__init__("tensorrt-llm", info, peak, memory_parts, loaded.weights, vocabulary=loaded.vocabulary)
        quantization = loaded.descriptor.quantization
        self.activation_bits = 16 if quantization is None else quantization.activation_bits
        self._loaded = loaded

    def generate(self, prompts: Prompts, tokens: int) -> Batch:
        """Without a tokenizer the library must be told an end token. No `min_tokens`: with an end token of -1 it would
        ban the last one of the vocabulary, and cost a copy to the device at each step (`_torch/pyexecutor/sampler.py`).
        """
        from tensorrt_llm import SamplingParams

        sampling = SamplingParams(
            max_tokens=tokens,
            ignore_eos=True,
            end_id=_NO_TOKEN,
            pad_id=_NO_TOKEN,
            temperature=0.0,
            detokenize=False,
        )
        _, batch = generate_offline(self._loaded.llm, [list(prompt) for prompt in prompts], sampling, explain)
        return batch


@contextmanager
def serve(order: ServeOrder[TensorParallel]) -> Iterator[TensorRtLlmEngine]:
    """See `harness.backends.base.Backend`."""
    where = select_device(order.device, order.tensor_parallel)
    split = order.tensor_parallel > 1
    blocks = peaks_of_devices(gpu_uuids(where, order.tensor_parallel)) if split else peaks_of_everything(where)
    with (
        ServingPeak(blocks) as peak,
        load_engine(order) as loaded,
    ):
        yield TensorRtLlmEngine(loaded, peak)


BACKEND = Backend(TensorParallel, serve)


def _notes(loaded: LoadedEngine) -> tuple[str, ...]:
    packed = loaded.descriptor.format is not CheckpointFormat.DENSE
    return (
        NOT_RUN,
        "PyTorch path with the library's own defaults, "
        + (
            f"split over {loaded.gpus} GPUs by tensor parallelism, a process each"
            if loaded.gpus > 1
            else "in one process (TLLM_WORKER_USE_SINGLE_PROCESS=1)"
        ),
        f"key-value cache of {loaded.kv_cache_tokens} tokens, reserved before the first run; no blocks are reused",
        *served_as_dense(loaded.descriptor),
        *([f"{loaded.descriptor.format.value} weights, computed with by the library's own kernels"] if packed else []),
    )
