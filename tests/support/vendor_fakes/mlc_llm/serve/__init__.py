"""`mlc_llm.serve.AsyncMLCEngine` and its `completions.create`: see the package."""

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import fake_behaviour
from documented import Documented

from mlc_llm.serve.config import EngineConfig


class _CompletionRequest(Documented):
    prompt: str | list[int]
    model: str | None = None
    best_of: int = 1
    echo: bool = False
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    max_tokens: int | None = None
    n: int = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    response_format: dict[str, Any] | None = None
    request_id: str | None = None
    extra_body: dict[str, Any] | None = None


class _DebugConfig(Documented):
    ignore_eos: bool = False
    pinned_system_prompt: bool = False
    special_request: Literal["query_engine_metrics"] | None = None
    grammar_execution_mode: Literal["constraint", "jump_forward"] = "jump_forward"


class _Completions:
    def __init__(self, context_window: int) -> None:
        self._context_window = context_window

    async def create(self, *, prompt: str | list[int], **arguments: Any) -> SimpleNamespace:
        request = _CompletionRequest(prompt=prompt, **arguments)
        debug = _DebugConfig(**(request.extra_body or {}).get("debug_config", {}))
        assert isinstance(request.prompt, list)
        assert request.max_tokens is not None
        if fake_behaviour.asked("die"):
            os.abort()
        fake_behaviour.record("create", ignore_eos=debug.ignore_eos, **request.model_dump())
        room = min(request.max_tokens, self._context_window - 1 - len(request.prompt))
        await asyncio.sleep(0)
        fake_behaviour.let_tokens_pass(request.max_tokens)
        fake_behaviour.noise("completed")
        tokens = fake_behaviour.continuation(request.prompt, room if debug.ignore_eos else min(room, 3))
        read = len(request.prompt) + fake_behaviour.asked("prefixed")
        usage = SimpleNamespace(prompt_tokens=read, completion_tokens=len(tokens), total_tokens=read + len(tokens))
        text = " ".join(map(str, tokens))
        return SimpleNamespace(choices=[SimpleNamespace(text=text, finish_reason="length")], usage=usage)


class AsyncMLCEngine:
    def __init__(
        self,
        model: str,
        device: str = "auto",
        *,
        model_lib: str | None = None,
        mode: Literal["local", "interactive", "server"] = "local",
        engine_config: EngineConfig | None = None,
        enable_tracing: bool = False,
    ) -> None:
        fake_behaviour.start()
        if fake_behaviour.asked("memory"):
            raise RuntimeError("Insufficient GPU memory error: the available single GPU memory is 1.000 MB")
        assert model_lib is not None and Path(model_lib).is_file(), "MLC_JIT_POLICY=OFF, and there is no library"
        settings = (engine_config or EngineConfig()).model_dump()
        fake_behaviour.record("AsyncMLCEngine", device=device, mode_asked=mode, folder=model, **settings)
        chat = json.loads((Path(model) / "mlc-chat-config.json").read_text())
        self.completions = _Completions(chat["context_window_size"])

    def terminate(self) -> None:
        fake_behaviour.record("terminate")
