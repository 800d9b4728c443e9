"""Speed of MLC-LLM: the same prompts continued by one token and by all of them."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.backends.base import Backend, EngineInfo, ServeOrder, served_as_dense
from harness.backends.differences import Batch, WholeBatchEngine
from harness.backends.mlc_llm.loading import PreparedModel, prepared_model, running_engine
from harness.backends.mlc_llm.quantization import MlcLlmOptions
from harness.backends.mlc_llm.refusals import explain
from harness.backends.prompts import Prompts
from harness.backends.serving_memory import ServingPeak, peaks_of_everything
from harness.contract import MemoryParts
from harness.errors import WorkerError
from harness.models.loading import select_device

NOT_RUN = (
    "not run by us: written to MLC-LLM's documented interface and tested against a stand-in;"
    " `orchestrator backends verify mlc-llm` checks it on your machine"
)
_BATCH_SECONDS = 1800.0
"""The engine works in threads of its own: if one dies, a request would wait for ever."""


class MlcLlmEngine(WholeBatchEngine):
    """A converted checkpoint in MLC's engine. See `harness.backends.base.Engine`."""

    def __init__(
        self,
        engine: Any,
        model: PreparedModel,
        load_seconds: float,
        loop: asyncio.AbstractEventLoop,
        peak: ServingPeak,
    ) -> None:
        info = EngineInfo(
            model.conversion.dtype,
            model.conversion.dtype_reason,
            load_seconds,
            notes=_notes(model),
            compile_seconds=model.prepared.seconds,
        )
        memory_parts = MemoryParts(
            weight_bytes=model.prepared.weight_bytes,
            absent={
                "kv_cache_bytes": f"MLC-LLM does not tell it; {model.kv_cache_tokens} tokens were asked for",
                **dict.fromkeys(("activation_bytes", "overhead_bytes"), "MLC-LLM does not tell it"),
            },
        )
        super().__init__("mlc-llm", info, peak, memory_parts, model.weights, vocabulary=model.vocabulary)
        self._engine = engine
        self._loop = loop

    def generate(self, prompts: Prompts, tokens: int) -> Batch:
        """MLC returns text and counts, not the numbers of the tokens."""
        begin = time.perf_counter()
        try:
            answers = self._loop.run_until_complete(
                asyncio.wait_for(self._complete(prompts, tokens), timeout=_BATCH_SECONDS)
            )
        except TimeoutError as silence:
            raise WorkerError(
                f"MLC-LLM did not finish a batch within {_BATCH_SECONDS:.0f} s",
                hint="its engine thread may have ended: see the stage's stderr.log; or ask for fewer tokens",
            ) from silence
        except Exception as failure:  # the library raises whatever its parts raise
            raise explain(failure, doing="generating") from failure
        seconds = time.perf_counter() - begin
        for prompt, answer in zip(prompts, answers, strict=True):
            if answer.usage.prompt_tokens != len(prompt):
                raise WorkerError(
                    f"mlc-llm read {answer.usage.prompt_tokens} prompt tokens instead of the {len(prompt)} given",
                    hint="the installed MLC-LLM adds tokens to a prompt or takes some from a cache; use the pinned one",
                )
        counts = tuple(answer.usage.completion_tokens for answer in answers)
        return Batch(counts, seconds, tuple(answer.choices[0].text for answer in answers))

    async def _complete(self, prompts: Prompts, tokens: int) -> list[Any]:
        return await asyncio.gather(
            *(
                self._engine.completions.create(
                    prompt=list(prompt),
                    max_tokens=tokens,
                    temperature=0.0,
                    extra_body={"debug_config": {"ignore_eos": True}},
                )
                for prompt in prompts
            )
        )


@contextmanager
def serve(order: ServeOrder[MlcLlmOptions]) -> Iterator[MlcLlmEngine]:
    """See `harness.backends.base.Backend`. The options are those of `MlcLlmOptions`.

    Memory is measured from the moment that the engine loads: converting and compiling is not serving.
    """
    loop = asyncio.new_event_loop()
    try:
        with (
            prepared_model(order) as model,
            ServingPeak(peaks_of_everything(select_device(order.device))) as peak,
            running_engine(model) as (engine, load_seconds),
        ):
            yield MlcLlmEngine(engine, model, load_seconds, loop, peak)
    finally:
        loop.close()


BACKEND = Backend(MlcLlmOptions, serve)


def _notes(model: PreparedModel) -> tuple[str, ...]:
    return (
        NOT_RUN,
        model.conversion.note,
        model.prepared.attention,
        f"key-value cache of {model.kv_cache_tokens} tokens; prefix cache off; compiled beforehand, not while serving",
        *served_as_dense(model.descriptor),
    )
