"""Speed of TensorRT-LLM: the same prompts continued by one token and by all of them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.backends.base import Backend, EngineInfo, Prompts, TimedRun
from harness.backends.device_memory import peaks_of_everything
from harness.backends.differences import Batch, time_by_difference
from harness.backends.prompts import drawn_prompts
from harness.backends.serving_memory import ServingPeak
from harness.backends.tensorrt_llm.loading import LoadedEngine, load_engine
from harness.backends.tensorrt_llm.refusals import explain
from harness.backends.unused import served_as_dense
from harness.contract import CheckpointFormat, Device, Dtype, MemoryParts, Scalar
from harness.models.loading import select_device
from harness.options import NoOptions, parse_options

NOT_RUN = (
    "not run by us: written to TensorRT-LLM's documented interface and tested against a stand-in;"
    " `orchestrator backends verify tensorrt-llm` checks it on your machine"
)
_NO_TOKEN = -1
"""The end and padding token of `trtllm-bench` where generation must not stop."""


class TensorRtLlmEngine:
    """A checkpoint in TensorRT-LLM. See `harness.backends.base.Engine`."""

    def __init__(self, loaded: LoadedEngine, peak: ServingPeak) -> None:
        self.info = EngineInfo(loaded.dtype, loaded.dtype_reason, loaded.load_seconds, notes=_notes(loaded))
        self.peak = peak
        self.memory_parts: MemoryParts | None = MemoryParts(
            absent={
                "kv_cache_bytes": f"TensorRT-LLM does not tell it; room for {loaded.kv_cache_tokens} tokens was asked"
                " for",
                **dict.fromkeys(
                    ("weight_bytes", "activation_bytes", "overhead_bytes"), "TensorRT-LLM does not tell it"
                ),
            }
        )
        self._loaded = loaded

    def run(
        self, *, batch_size: int, prompt_tokens: int, generate_tokens: int, seed: int, prompts: Prompts | None = None
    ) -> TimedRun:
        drawn = prompts or drawn_prompts(self._loaded.vocabulary, batch_size, prompt_tokens, seed)
        return time_by_difference(
            "tensorrt-llm",
            lambda tokens: self._generate([list(prompt) for prompt in drawn], tokens),
            batch_size=batch_size,
            generate_tokens=generate_tokens,
        )

    def _generate(self, prompts: list[list[int]], tokens: int) -> Batch:
        """The library returns when every token is in host memory. Without a tokenizer it must be told an end token."""
        from tensorrt_llm import SamplingParams

        sampling = SamplingParams(
            max_tokens=tokens,
            min_tokens=tokens,
            ignore_eos=True,
            end_id=_NO_TOKEN,
            pad_id=_NO_TOKEN,
            temperature=0.0,
            detokenize=False,
        )
        begin = time.perf_counter()
        try:
            outputs: list[Any] = self._loaded.llm.generate(prompts, sampling, use_tqdm=False)
        except Exception as failure:  # the library raises whatever its parts raise
            raise explain(failure, doing="generating") from failure
        seconds = time.perf_counter() - begin
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
) -> Iterator[TensorRtLlmEngine]:
    """See `harness.backends.base.Serve`. There are no options."""
    parse_options(NoOptions, options, "tensorrt-llm")
    with (
        ServingPeak(peaks_of_everything(select_device(device))) as peak,
        load_engine(
            checkpoint, device, dtype, context_tokens=context_tokens, sequences=max(batch_sizes), kv_tokens=kv_tokens
        ) as loaded,
    ):
        yield TensorRtLlmEngine(loaded, peak)


BACKEND = Backend(NoOptions, serve)


def _notes(loaded: LoadedEngine) -> tuple[str, ...]:
    packed = loaded.descriptor.format is not CheckpointFormat.DENSE
    return (
        NOT_RUN,
        "PyTorch path with the library's own defaults, in one process (TLLM_WORKER_USE_SINGLE_PROCESS=1)",
        f"key-value cache of {loaded.kv_cache_tokens} tokens, reserved before the first run; no blocks are reused",
        *served_as_dense(loaded.descriptor),
        *([f"{loaded.descriptor.format.value} weights, computed with by the library's own kernels"] if packed else []),
    )
