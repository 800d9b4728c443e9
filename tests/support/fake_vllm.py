"""A stand-in for vLLM's offline engine with the argument names and defaults of the real one, and nothing else.

The names are those of `vllm.LLM.__init__`, `vllm.EngineArgs`, `LLM.generate` and `vllm.SamplingParams` that versions
0.24.0 and 0.32.0 share (vllm/entrypoints/llm.py, vllm/engine/arg_utils.py, vllm/sampling_params.py): another is a
TypeError here as it is there.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FIRST_SECONDS, LATER_SECONDS = 1000.0, 100.0
"""Pass at once, on the clock that the adapter reads: far more than any machine takes for the rest."""


@dataclass(kw_only=True)
class EngineArguments:
    """What the engine was built with. `LLM` hands on to `EngineArgs` what it does not name itself."""

    model: str
    tokenizer: str | None = None
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    distributed_executor_backend: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    seed: int = 0
    gpu_memory_utilization: float = 0.92
    enforce_eager: bool = False
    hf_overrides: dict[str, Any] | None = None
    kv_cache_memory_bytes: int | None = None
    compilation_config: dict[str, Any] | None = None
    block_size: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enable_prefix_caching: bool | None = None
    disable_log_stats: bool = False
    load_format: str = "auto"


@dataclass(kw_only=True)
class SamplingParams:
    """`max_tokens` is 16 unless told otherwise, and an end-of-sequence token ends a sequence unless ignored."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True


@dataclass
class FakeVllm:
    """What the stand-in saw, and how it is to behave. `log_likelihood` gives (nats, rank) of a token at its place,
    `likeliest` (token, nats) of the likeliest ones there, the first of which are given to who asks for some."""

    device_type: str = "cpu"
    loading: Callable[[], None] = lambda: None
    generating: Callable[[], None] = lambda: None
    tokens_short: int = 0
    cached_tokens: int = 0
    instant: bool = False
    log_likelihood: Callable[[list[int], int], tuple[float, int]] = lambda tokens, place: (-1.0, 1)
    likeliest: Callable[[list[int], int], list[tuple[int, float]]] = lambda tokens, place: []
    arguments: list[EngineArguments] = field(default_factory=list)
    calls: list[tuple[list[list[int]], SamplingParams]] = field(default_factory=list)
    environments: list[dict[str, str]] = field(default_factory=list)
    stopped: int = 0
    seconds_passed: float = 0.0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "FakeVllm":
        """Put the modules that the adapter imports in place of the real ones."""

        def stop() -> None:
            self.stopped += 1

        modules = {
            "vllm": {"LLM": self._engine_class(), "SamplingParams": SamplingParams},
            "vllm.platforms": {"current_platform": SimpleNamespace(device_type=self.device_type)},
            "vllm.distributed": {},
            "vllm.distributed.parallel_state": {"cleanup_dist_env_and_memory": stop},
        }
        for name, contents in modules.items():
            module = ModuleType(name)
            module.__dict__.update(contents, __path__=[])
            monkeypatch.setitem(sys.modules, name, module)
        really = time.perf_counter
        monkeypatch.setattr(time, "perf_counter", lambda: really() + self.seconds_passed)
        return self

    def _engine_class(self) -> type:
        import os

        fake = self

        class LLM:
            def __init__(self, model: str, **arguments: Any) -> None:
                fake.environments.append(dict(os.environ))
                fake.loading()
                fake.arguments.append(EngineArguments(model=model, **arguments))
                self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: None))

            def generate(
                self,
                prompts: Sequence[dict[str, list[int]]],
                sampling_params: SamplingParams | None = None,
                *,
                use_tqdm: bool = True,
            ) -> list[SimpleNamespace]:
                sampling = sampling_params or SamplingParams()
                tokens = [prompt["prompt_token_ids"] for prompt in prompts]
                fake.check(tokens, sampling)
                fake.calls.append((tokens, sampling))
                fake.generating()
                return [fake.output(prompt, sampling) for prompt in tokens]

        return LLM

    def check(self, prompts: list[list[int]], sampling: SamplingParams) -> None:
        """The engine refuses a prompt that leaves no room for one token (vllm/v1/engine/input_processor.py)."""
        limit = self.arguments[-1].max_model_len
        assert limit is not None
        for prompt in prompts:
            if len(prompt) >= limit:
                raise ValueError(f"The decoder prompt (length {len(prompt)}) is longer than {limit}")

    def _place(self, prompt: list[int], place: int, count: int) -> dict[int, SimpleNamespace]:
        """The right token first, as in `LogprobsProcessor` (vllm/v1/engine/logprobs.py), then the likeliest."""
        nats, rank = self.log_likelihood(prompt, place)
        likeliest = self.likeliest(prompt, place)[:count]
        return {
            prompt[place]: SimpleNamespace(logprob=nats, rank=rank),
            **{token: SimpleNamespace(logprob=one, rank=at) for at, (token, one) in enumerate(likeliest, 1)},
        }

    def output(self, prompt: list[int], sampling: SamplingParams) -> SimpleNamespace:
        assert sampling.max_tokens is not None
        if not self.instant:
            self.seconds_passed += FIRST_SECONDS + LATER_SECONDS * (sampling.max_tokens - 1)
        generated = sampling.max_tokens - (self.tokens_short if sampling.max_tokens > 1 else 0)
        places: list[Any] | None = None
        if sampling.prompt_logprobs is not None:
            places = [None, *(self._place(prompt, place, sampling.prompt_logprobs) for place in range(1, len(prompt)))]
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=[0] * generated)],
            num_cached_tokens=self.cached_tokens,
            prompt_logprobs=places,
        )
