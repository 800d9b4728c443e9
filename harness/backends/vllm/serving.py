"""Speed of vLLM: the same prompts continued by one token and by all of them, and the difference of the two times."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from harness.backends.base import Backend, EngineInfo, ServeOrder, TensorParallel
from harness.backends.differences import Batch, WholeBatchEngine, generate_offline
from harness.backends.prompts import Prompts
from harness.backends.serving_memory import ServingPeak, peaks_of_devices
from harness.backends.vllm.loading import LoadedEngine, load_engine, loading_notes
from harness.backends.vllm.refusals import explain
from harness.backends.vllm.scoring import SCORING
from harness.contract import MemoryParts
from harness.device_telemetry import gpu_uuids
from harness.errors import WorkerError
from harness.models.loading import select_device
from harness.telemetry import PeakMemory

_LISTED = 20
"""vLLM's own bound of `logprobs`."""


class VllmEngine(WholeBatchEngine):
    """A checkpoint in vLLM's offline engine. See `harness.backends.base.Engine`."""

    def __init__(self, loaded: LoadedEngine, peak: ServingPeak) -> None:
        info = EngineInfo(loaded.dtype, loaded.dtype_reason, loaded.load_seconds, notes=loading_notes(loaded))
        memory_parts = MemoryParts(
            kv_cache_bytes=loaded.kv_cache_bytes,
            absent=dict.fromkeys(("weight_bytes", "activation_bytes", "overhead_bytes"), "vLLM does not tell it"),
        )
        super().__init__("vllm", info, peak, memory_parts, loaded.weights, vocabulary=loaded.vocabulary)
        quantization = loaded.descriptor.quantization
        self.activation_bits = 16 if quantization is None else quantization.activation_bits
        self._loaded = loaded

    def generate(self, prompts: Prompts, tokens: int) -> Batch:
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs, batch = generate_offline(self._loaded.llm, asked, sampling, explain)
        if reused := sum(output.num_cached_tokens or 0 for output in outputs):
            raise WorkerError(
                f"vllm took {reused} prompt tokens from its cache instead of computing them",
                hint="the installed vLLM does not turn prefix caching off when asked; use the image's lock",
            )
        return batch

    def gap_nats(self, before: tuple[int, ...], token: int) -> float | None:
        """A token beyond the likeliest that vLLM lists stands below the last of them."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False, logprobs=_LISTED)
        outputs, _ = generate_offline(self._loaded.llm, [{"prompt_token_ids": list(before)}], sampling, explain)
        listed = {number: float(one.logprob) for number, one in outputs[0].outputs[0].logprobs[0].items()}
        return max(listed.values()) - listed.get(token, min(listed.values()))


@contextmanager
def serve(order: ServeOrder[TensorParallel]) -> Iterator[VllmEngine]:
    """See `harness.backends.base.Backend`."""
    where = select_device(order.device, order.tensor_parallel)
    split = order.tensor_parallel > 1
    blocks = peaks_of_devices(gpu_uuids(where, order.tensor_parallel)) if split else partial(PeakMemory, where)
    with (
        ServingPeak(blocks) as peak,
        load_engine(
            order.checkpoint,
            order.device,
            order.dtype,
            context_tokens=order.context_tokens,
            sequences=order.sequences,
            kv_tokens=order.kv_tokens,
            tensor_parallel=order.tensor_parallel,
        ) as loaded,
    ):
        yield VllmEngine(loaded, peak)


BACKEND = Backend(TensorParallel, serve)
__all__ = ["BACKEND", "SCORING"]
