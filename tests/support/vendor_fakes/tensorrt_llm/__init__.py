"""A stand-in for TensorRT-LLM with the argument names, types and defaults of its documented interface.

From the API reference (`llm-api/reference`: `LLM`, `TorchLlmArgs`, `KvCacheConfig`, `SamplingParams`), and from
`tensorrt_llm/sampling_params.py` and `tensorrt_llm/llmapi/llm.py` of NVIDIA/TensorRT-LLM: prompts are lists of token
numbers, and without a tokenizer `SamplingParams.end_id` must be given. From `_torch/model_config.py`: what is computed
in is config.json's, or that of `model_kwargs`, and never `dtype`. From `_torch/pyexecutor/sampler.py`: before
`min_tokens` the end token is banned, which is the last of the vocabulary where it is -1.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import fake_behaviour
from documented import Documented

from tensorrt_llm.llmapi import KvCacheConfig

__all__ = ["LLM", "SamplingParams"]


class SamplingParams(Documented):
    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    return_perf_metrics: bool = False
    ignore_eos: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True


class _TorchLlmArgs(Documented):
    model: str
    tokenizer: str | None = None
    tokenizer_mode: Literal["auto", "slow"] = "auto"
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    revision: str | None = None
    tokenizer_revision: str | None = None
    model_kwargs: dict[str, Any] | None = None
    load_format: str = "auto"
    kv_cache_config: KvCacheConfig = KvCacheConfig()
    enable_chunked_prefill: bool = False
    max_batch_size: int | None = 2048
    max_input_len: int | None = 1024
    max_seq_len: int | None = None
    max_beam_width: int | None = 1
    max_num_tokens: int | None = 8192
    disable_overlap_scheduler: bool = False
    backend: str = "pytorch"


class LLM:
    def __init__(self, model: str, **arguments: Any) -> None:
        fake_behaviour.start()
        self.args = _TorchLlmArgs(model=model, **arguments)
        variables = {name: os.environ.get(name) for name in ("TLLM_WORKER_USE_SINGLE_PROCESS", "HF_HUB_OFFLINE")}
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        self._vocabulary: int = config["vocab_size"]
        computed_in = (self.args.model_kwargs or {}).get("torch_dtype", config.get("dtype", config.get("torch_dtype")))
        seen = self.args.model_dump(mode="json")
        fake_behaviour.record("LLM", variables=variables, computed_in=computed_in, **seen)
        if fake_behaviour.asked("refuse"):
            words = ValueError("Unknown architecture for AutoModelForCausalLM: OPTForCausalLM")
            raise RuntimeError("Executor worker returned error") from words
        if fake_behaviour.asked("memory"):
            raise RuntimeError("Executor creation failed due to insufficient GPU memory.")

    def generate(
        self,
        inputs: Sequence[Sequence[int]],
        sampling_params: SamplingParams | None = None,
        use_tqdm: bool = True,
    ) -> list[SimpleNamespace]:
        if sampling_params is None or sampling_params.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        if use_tqdm:
            fake_behaviour.noise("Processed requests: 100%")
        if fake_behaviour.asked("die"):
            os.abort()
        for prompt in inputs:
            if len(prompt) + sampling_params.max_tokens > (self.args.max_seq_len or 0):
                raise ValueError("The sum of prompt length and max_tokens should not exceed max_seq_len")
        fake_behaviour.record("generate", inputs=[list(one) for one in inputs], **sampling_params.model_dump())
        fake_behaviour.let_tokens_pass(sampling_params.max_tokens)
        fake_behaviour.noise("generated")
        tokens = [self._continue(list(prompt), sampling_params) for prompt in inputs]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=one, text="")]) for one in tokens]

    def _continue(self, prompt: list[int], sampling: SamplingParams) -> list[int]:
        tokens = fake_behaviour.continuation(prompt, sampling.max_tokens)
        banned = sampling.end_id % self._vocabulary
        held = max((sampling.min_tokens or 0) - len(prompt), 0)
        return [0 if token == banned and place < held else token for place, token in enumerate(tokens)]

    def shutdown(self) -> None:
        fake_behaviour.record("shutdown")
