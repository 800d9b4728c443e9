"""`python -m mlc_llm convert_weight | gen_config | compile`: see the package."""

import argparse
import json
import os
import sys
from pathlib import Path

import fake_behaviour

QUANTIZATIONS = ("q0f16", "q0bf16", "q0f32", "q4f16_0", "q4f16_1", "q4f16_2", "q4f16_autoawq")
MODELS = ("llama", "mistral", "qwen2", "qwen3", "chatglm")


def main(command: str, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(command, allow_abbrev=False)
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--model-type", default="auto")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, required=command != "compile")
    if command != "gen_config":
        parser.add_argument("--device", default="auto")
    if command == "convert_weight":
        parser.add_argument("--source", default="auto")
        formats = ("auto", "huggingface-torch", "huggingface-safetensor", "awq")
        parser.add_argument("--source-format", choices=formats, default="auto")
        parser.add_argument("--lora-adapter", default=None)
    if command == "gen_config":
        parser.add_argument("--conv-template", choices=("LM", "llama-2", "llama-3"), required=True)
        for name in ("context-window-size", "sliding-window-size", "prefill-chunk-size", "tensor-parallel-shards"):
            parser.add_argument(f"--{name}", type=int, default=None)
        parser.add_argument("--max-batch-size", type=int, default=128)
    if command == "compile":
        parser.add_argument("--host", default="auto")
        parser.add_argument("--opt", default="O2")
        parser.add_argument("--overrides", default="")
    parsed = parser.parse_args(arguments)
    seen = {name: str(value) for name, value in vars(parsed).items()}
    fake_behaviour.record(command, policy=os.environ.get("MLC_JIT_POLICY"), **seen)
    fake_behaviour.noise(command)
    {"convert_weight": _convert, "gen_config": _configure, "compile": _compile}[command](parsed)


def _convert(parsed: argparse.Namespace) -> None:
    model_type = json.loads((parsed.model / "config.json").read_text())["model_type"]
    if model_type not in MODELS:
        raise ValueError(f"Unknown model type: {model_type}. Available ones: {list(MODELS)}")
    if fake_behaviour.asked("refuse"):
        raise ValueError("Parameter model.layers.1.mlp.down_proj.weight has shape (256, 400), but expected [256, 512]")
    parsed.output.mkdir(parents=True, exist_ok=True)
    (parsed.output / "params_shard_0.bin").write_bytes(bytes(1000))


def _configure(parsed: argparse.Namespace) -> None:
    document = {"quantization": parsed.quantization, "context_window_size": parsed.context_window_size}
    (parsed.output / "mlc-chat-config.json").write_text(json.dumps(document))


def _compile(parsed: argparse.Namespace) -> None:
    if not (parsed.model / "mlc-chat-config.json").is_file():
        raise ValueError(f"no mlc-chat-config.json in {parsed.model}")
    parsed.output.write_bytes(b"a library")


main(sys.argv[1], sys.argv[2:])
