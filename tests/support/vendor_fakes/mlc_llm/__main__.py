"""`python -m mlc_llm convert_weight | gen_config | compile`: see the package. Each rule names the file that has it."""

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import fake_behaviour

MODELS = ("llama", "mistral", "qwen2", "qwen3", "chatglm")
STORED_BYTES = {"q0f16": 2.0, "q0bf16": 2.0, "q0f32": 2.0, "q4f16_0": 0.5625, "q4f16_1": 0.5625, "q4f16_2": 0.5625}
"""On disk, for each weight: `interface/convert_weight.py` encodes float32 as bfloat16."""
MEMORY_BYTES = {**STORED_BYTES, "q0f32": 4.0}
AWQ = "q4f16_autoawq"
LONGEST_CHUNK = {"qwen3": 2048}
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"


class ArgumentParser(argparse.ArgumentParser):
    """`support/argparse.py`: the usage goes to stdout, the reason to stderr."""

    def error(self, message: str) -> NoReturn:
        sys.stdout.write(f"{'-' * 25} Usage {'-' * 25}\n{self.format_help()}{'-' * 25} Error {'-' * 25}\n")
        sys.stderr.write(f"{message}\n")
        sys.exit(2)


def detect_device(hint: str) -> str:
    """`support/auto_device.py`; argparse swallows the reason where this is the type of an argument."""
    if hint.partition(":")[0] != "cpu" and not fake_behaviour.asked("gpu"):
        raise ValueError(f"Device is not found on your local environment: {hint}")
    return hint


def detect_config(config: str) -> Path:
    """`support/auto_config.py`"""
    found = Path(config) / "config.json"
    if not found.is_file():
        raise ValueError(f"Fail to find config.json under {config}.")
    return found


def main(command: str, arguments: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="[2026-01-01 00:00:00] %(levelname)s fake.py:1: %(message)s")
    parser = ArgumentParser(command, allow_abbrev=False)
    parser.add_argument("model", type=Path if command == "compile" else detect_config)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--model-type", default="auto")
    parser.add_argument("--quantization", choices=(*STORED_BYTES, AWQ), required=command != "compile")
    if command == "convert_weight":
        parser.add_argument("--device", default="auto", type=detect_device)
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
        parser.add_argument("--device", default="auto")
        parser.add_argument("--host", default="auto")
        parser.add_argument("--opt", default="O2")
        parser.add_argument("--overrides", default="")
    parsed = parser.parse_args(arguments)
    seen = {name: str(value) for name, value in vars(parsed).items()}
    fake_behaviour.record(command, policy=os.environ.get("MLC_JIT_POLICY"), **seen)
    fake_behaviour.noise(command)
    {"convert_weight": _convert, "gen_config": _configure, "compile": _compile}[command](parsed)


def _convert(parsed: argparse.Namespace) -> None:
    folder, config = parsed.model.parent, json.loads(parsed.model.read_text())
    source = _detect_weight(folder if parsed.source == "auto" else Path(parsed.source), parsed.source_format)
    model_type = config["model_type"]
    if model_type not in MODELS:
        raise ValueError(f"Unknown model type: {model_type}. Available ones: {list(MODELS)}")
    if parsed.quantization == AWQ and model_type != "llama":
        raise KeyError("awq")  # `model/model.py`: a model without that kind in its `quantize`
    if model_type in ("qwen2", "qwen3") and "rope_theta" not in config:  # `model/qwen2/qwen2_model.py`: no default
        raise TypeError("QWen2Config.__init__() missing 1 required positional argument: 'rope_theta'")
    fake_behaviour.record("converted", rope_theta=config.get("rope_theta", 10000))
    _refuse_shapes(SimpleNamespace(**config))
    assert source.is_file(), f"Path {source} is not a file"  # `loader/huggingface_loader.py`
    sizes = _stored_sizes(source)
    wanted = {"model.embed_tokens.weight", "model.norm.weight"}
    if absent := sorted(wanted - set(sizes)):
        names = "\n  ".join(absent)
        raise ValueError(f"The following extern parameters do not exist in the weight files:\n  {names}")
    if fake_behaviour.asked("refuse"):
        raise ValueError("Parameter model.layers.1.mlp.down_proj.weight has shape (256, 400), but expected [256, 512]")
    parsed.output.mkdir(parents=True, exist_ok=True)
    weights, packed = sum(count for count, _ in sizes.values()), sum(size for _, size in sizes.values())
    stored = STORED_BYTES.get(parsed.quantization, 0.0) * weights or packed
    (parsed.output / "params_shard_0.bin").write_bytes(bytes(int(stored)))
    memory = MEMORY_BYTES.get(parsed.quantization, 0.0) * weights or packed
    document = {"metadata": {"ParamSize": len(sizes), "ParamBytes": float(memory), "BitsPerParam": 0.0}, "records": []}
    (parsed.output / "tensor-cache.json").write_text(json.dumps(document))


def _detect_weight(path: Path, weight_format: str) -> Path:
    """`support/auto_weight.py`: a folder's index, which is written there where it is not; AWQ is taken as it is."""
    if not path.exists():
        raise ValueError(f"weight_path doesn't exist: {path}")
    if weight_format == "awq":
        return path
    if not (path / INDEX).exists():
        if not (path / WEIGHTS).exists():
            raise ValueError(f"The weight is not in {weight_format} format.")
        names = dict.fromkeys(_stored_sizes(path / WEIGHTS), WEIGHTS)
        (path / INDEX).write_text(json.dumps({"weight_map": names}))
    return path / INDEX


def _stored_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """How many values, and bytes, each tensor has in the safetensors file, or in those that the index names."""
    if path.suffix == ".json":
        placed = json.loads(path.read_text())["weight_map"]
        files = {path.parent / name for name in placed.values()}
        found = {name: size for file in files for name, size in _stored_sizes(file).items()}
        return {name: found[name] for name in placed}
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for length in entry["shape"]:
                count *= length
            found[name] = (count, entry["data_offsets"][1] - entry["data_offsets"][0])
    return found


def _refuse_shapes(config: SimpleNamespace) -> None:
    """`model/llama/llama_model.py`, `model/mistral/mistral_model.py`, `model/qwen2/qwen2_model.py`"""
    if config.model_type == "qwen2":
        head_dim = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
        assert head_dim * config.num_attention_heads == config.hidden_size
    elif config.model_type in ("llama", "mistral"):
        assert config.hidden_size % config.num_attention_heads == 0


def _configure(parsed: argparse.Namespace) -> None:
    """The model's own prefill chunk, then what is asked for: `interface/gen_config.py`, `support/config.py`."""
    config = json.loads(parsed.model.read_text())
    kind, window = config["model_type"], config["max_position_embeddings"]
    longest = LONGEST_CHUNK.get(kind, 8192)
    chunk = min(window, longest)
    window, chunk = parsed.context_window_size or window, parsed.prefill_chunk_size or chunk
    if chunk > window and kind != "mistral":
        chunk = min(window, longest)
    document = {
        "quantization": parsed.quantization,
        "context_window_size": window,
        "prefill_chunk_size": chunk,
        "max_batch_size": parsed.max_batch_size,
    }
    (parsed.output / "mlc-chat-config.json").write_text(json.dumps(document))
    fake_behaviour.record("configured", **document)


def _compile(parsed: argparse.Namespace) -> None:
    """`cli/compile.py`; which attention is compiled is printed (`compiler_pass/dispatch_kv_cache_creation.py`)."""
    detect_device(parsed.device)
    if not (parsed.model / "mlc-chat-config.json").is_file():
        raise ValueError(f"Fail to find mlc-chat-config.json under {parsed.model}.")
    on = parsed.device == "cuda" and parsed.opt in ("O2", "O3")
    sys.stdout.write(f"  --opt                     flashinfer={int(on)};cublas_gemm={int(on)};cudagraph={int(on)}\n")
    if fake_behaviour.asked("no-flashinfer"):
        reason = "Error caught when creating FlashInfer PagedKVCache: nvcc is not there"
        logging.info("%s\nThe model will fallback to TIR-based KV cache.", reason)
    parsed.output.write_bytes(b"a library")


main(sys.argv[1], sys.argv[2:])
