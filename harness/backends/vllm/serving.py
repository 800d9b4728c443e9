"""Speed of vLLM: the same prompts continued by one token and by all of them, and the difference of the two times."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness.backends.base import Backend, EngineInfo, Prompts, TimedRun
from harness.backends.differences import Batch, time_by_difference
from harness.backends.prompts import drawn_prompts
from harness.backends.serving_memory import ServingPeak
from harness.backends.vllm.loading import LoadedEngine, load_engine, loading_notes
from harness.backends.vllm.refusals import explain
from harness.backends.vllm.scoring import SCORING
from harness.contract import Device, Dtype, MemoryParts, Scalar
from harness.errors import WorkerError
from harness.models.loading import select_device
from harness.options import NoOptions, parse_options
from harness.telemetry import PeakMemory


class VllmEngine:
    """A checkpoint in vLLM's offline engine. See `harness.backends.base.Engine`."""

    def __init__(self, loaded: LoadedEngine, peak: ServingPeak) -> None:
        self.info = EngineInfo(loaded.dtype, loaded.dtype_reason, loaded.load_seconds, notes=loading_notes(loaded))
        self.peak = peak
        self.memory_parts: MemoryParts | None = MemoryParts(
            kv_cache_bytes=loaded.kv_cache_bytes,
            absent=dict.fromkeys(("weight_bytes", "activation_bytes", "overhead_bytes"), "vLLM does not tell it"),
        )
        self._loaded = loaded

    def run(
        self, *, batch_size: int, prompt_tokens: int, generate_tokens: int, seed: int, prompts: Prompts | None = None
    ) -> TimedRun:
        """Time the prompts with one token each, which is the prefill, and again with all: the rest is decoding."""
        drawn = prompts or drawn_prompts(self._loaded.vocabulary, batch_size, prompt_tokens, seed)
        asked = [{"prompt_token_ids": list(prompt)} for prompt in drawn]
        return time_by_difference(
            "vllm",
            lambda tokens: self._generate(asked, tokens),
            batch_size=batch_size,
            generate_tokens=generate_tokens,
        )

    def _generate(self, prompts: list[dict[str, list[int]]], tokens: int) -> Batch:
        """vLLM returns when every token is in host memory."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        begin = time.perf_counter()
        try:
            outputs: list[Any] = self._loaded.llm.generate(prompts, sampling, use_tqdm=False)
        except Exception as failure:  # the library raises whatever its parts raise
            raise explain(failure, doing="generating") from failure
        seconds = time.perf_counter() - begin
        if reused := sum(output.num_cached_tokens or 0 for output in outputs):
            raise WorkerError(
                f"vllm took {reused} prompt tokens from its cache instead of computing them",
                hint="the installed vLLM does not turn prefix caching off when asked; use the image's lock",
            )
        generated = tuple(tuple(output.outputs[0].token_ids) for output in outputs)
        return Batch(tuple(map(len, generated)), seconds, generated)


@contextmanager
def serve(
    checkpoint: Path,
    device: Device,
    dtype: Dtype | None,
    *,
    context_tokens: int,
    batch_sizes: tuple[int, ...],
    kv_tokens: int,
    options: Mapping[str, Scalar],
    work: Path,
) -> Iterator[VllmEngine]:
    """See `harness.backends.base.Serve`. There are no options."""
    parse_options(NoOptions, options, "vllm")
    with (
        ServingPeak(partial(PeakMemory, select_device(device))) as peak,
        load_engine(
            checkpoint, device, dtype, context_tokens=context_tokens, sequences=max(batch_sizes), kv_tokens=kv_tokens
        ) as loaded,
    ):
        yield VllmEngine(loaded, peak)


BACKEND = Backend(NoOptions, serve)
__all__ = ["BACKEND", "SCORING"]
