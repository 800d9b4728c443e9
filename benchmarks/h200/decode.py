"""Tokens a second of the native backend's ways to decode, beside what the memory's bandwidth allows.

python benchmarks/h200/decode.py --shape llama-2-7b --out decode.json

Weights are random, so tokens mean nothing but whether two ways agree: `equal_tokens` is the share of tokens before each
sequence's first difference from the first way asked for, whose kernels add in another order. The limit counts each
step's bytes that must be read once (all weights but the input embedding, keys and values so far) at the rate of a plain
copy on this card. With `--zeros` half of the blocks' weights are zeros, and the way `packed` computes from packed ones.
The file is written again after every way, so that a run that is cut short leaves what it has.
"""

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.h200.roofline import copy_bytes_per_second
from benchmarks.h200.shapes import SHAPES
from harness.architectures.blocks import decoder_blocks
from harness.architectures.shape import Shape, read_shape
from harness.backends.native.fused_blocks import fuse
from harness.backends.native.sparse_serving import use_sparse
from harness.backends.native.static_cache import padded
from harness.backends.native.static_decoding import StaticDecoder, Stepping
from harness.backends.repeats import median_interval, noise_floor
from harness.contract import Dtype, harness_digest
from harness.kernels.sparse.dispatch import SparseLinear
from harness.models.decoding import Decoded, decode, random_prompts
from harness.models.loading import LoadedModel

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
WAYS: dict[str, tuple[bool, Stepping | None]] = {
    "growing": (False, None),
    "static": (False, Stepping.STATIC),
    "graph": (False, Stepping.GRAPH),
    "graph-joined": (True, Stepping.GRAPH),
    "compiled": (True, Stepping.COMPILED),
    "tuned": (True, Stepping.TUNED),
    "packed": (True, Stepping.GRAPH),
}
"""In this order, since joined and packed linears stay so: whether they are joined, and how a step is made."""
ZEROS = ("2:4", "unstructured")
WARM_UP = 2


def main() -> None:
    arguments = _arguments()
    begin = time.perf_counter()
    device = torch.device(arguments.device)
    loaded = _random_model(arguments.shape, arguments.layers, DTYPES[arguments.dtype], device)
    if arguments.zeros is not None:
        _drop_half(loaded, arguments.zeros)
    shape = read_shape(loaded.model.config.to_dict())
    rate = copy_bytes_per_second(device)
    document: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "harness": harness_digest(),
        "layers": shape.layers,
        "zeros": arguments.zeros,
        "copy_bytes_per_second": rate,
        "batches": {},
    }
    prompts = {
        size: random_prompts(loaded, batch_size=size, tokens=arguments.prompt_tokens, seed=0)
        for size in arguments.batch_sizes
    }
    expected: dict[int, torch.Tensor] = {}
    modules = [block.module for block in decoder_blocks(loaded.model)]
    joined = False
    for way in (name for name in WAYS if name in arguments.ways):
        join, stepping = WAYS[way]
        if join and not joined:
            fuse(loaded.model)
            joined = True
        if way == "packed":
            document["packed"] = _pack(modules, arguments)
            print(document["packed"], file=sys.stderr, flush=True)
        for size in arguments.batch_sizes:
            if time.perf_counter() - begin > arguments.start_until_seconds:
                print(f"{way} batch {size} left out: {arguments.start_until_seconds} s have passed", file=sys.stderr)
                continue
            row, tokens = _measure(loaded, stepping, prompts[size], arguments)
            expected.setdefault(size, tokens)
            limit = size * rate / _bytes_each_step(loaded, shape, size, arguments)
            row |= {
                "limit_tokens_per_second": round(limit, 1),
                "share_of_limit": round(row["tokens_per_second"] / limit, 3),
                "equal_tokens": _equal_share(tokens, expected[size]),
            }
            document["batches"].setdefault(size, {})[way] = row
            document["wall_seconds"] = round(time.perf_counter() - begin, 1)
            arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            print(way, size, row, file=sys.stderr, flush=True)


@torch.no_grad()
def _drop_half(loaded: LoadedModel, zeros: str) -> None:
    """Zeros in random places: half of each linear's weights, or of each four inputs'."""
    for block in decoder_blocks(loaded.model):
        for linear in block.linears:
            weight = linear.module.weight
            drawn = torch.rand(weight.shape, device=weight.device)
            if zeros == "2:4":
                weight.view(len(weight), -1, 4).scatter_(-1, drawn.view(len(weight), -1, 4).argsort(-1)[..., :2], 0)
            else:
                weight.masked_fill_(drawn < 0.5, 0)


def _pack(blocks: list[torch.nn.Module], arguments: argparse.Namespace) -> tuple[str, ...]:
    """Notes of what was packed."""
    if arguments.zeros is None:
        raise SystemExit("packed linears need zeros: give --zeros as well")
    sizes = arguments.batch_sizes
    return use_sparse(blocks, pattern=arguments.zeros, tokens=sizes, prompt_tokens=max(sizes) * arguments.prompt_tokens)


def _measure(
    loaded: LoadedModel, stepping: Stepping | None, prompts: torch.Tensor, arguments: argparse.Namespace
) -> tuple[dict[str, Any], torch.Tensor]:
    generate_tokens = arguments.generate_tokens
    decoder: StaticDecoder | None = None
    generate: Callable[[], Decoded] = partial(decode, loaded, prompts, generate_tokens)
    if stepping is not None:
        room = prompts.shape[0] * padded(prompts.shape[1] + generate_tokens)
        decoder = StaticDecoder(loaded, stepping, kv_tokens=room)
        generate = partial(decoder.decode, prompts, generate_tokens)
    runs = [generate() for _ in range(WARM_UP + arguments.repeats)][WARM_UP:]
    samples = [prompts.shape[0] * (generate_tokens - 1) / run.decode_seconds for run in runs]
    interval, floor = median_interval(samples), noise_floor(samples)
    row = {
        "tokens_per_second": round(statistics.median(samples), 2),
        "interval": None if interval is None else [round(interval.low, 2), round(interval.high, 2)],
        "noise_floor": None if floor is None else round(floor, 5),
        "prefill_seconds": round(statistics.median(run.prefill_seconds for run in runs), 5),
        "compile_seconds": None if decoder is None else round(decoder.compile_seconds, 1),
    }
    tokens = runs[-1].tokens.cpu()
    del decoder, generate
    if prompts.device.type == "cuda":
        torch.cuda.empty_cache()
    return row, tokens


def _bytes_each_step(loaded: LoadedModel, shape: Shape, batch_size: int, arguments: argparse.Namespace) -> float:
    """Read once for one token of each sequence, at the mean length of the cache."""
    value_bytes = DTYPES[arguments.dtype].itemsize
    packed = [part for part in loaded.model.modules() if isinstance(part, SparseLinear)]
    saved = sum(part.in_features * part.out_features * value_bytes - part.packed_bytes for part in packed)
    weights = (shape.decoder_weights + shape.head_weights) * value_bytes - saved
    mean_length = arguments.prompt_tokens + arguments.generate_tokens // 2
    return weights + shape.kv_cache_bytes(tokens=mean_length, batch_size=batch_size, value_bytes=value_bytes)


def _equal_share(tokens: torch.Tensor, expected: torch.Tensor) -> float:
    return round(float((tokens == expected).long().cumprod(dim=1).float().mean()), 4)


def _random_model(name: str, layers: int | None, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """A LLaMA of this shape. Made where it computes: nothing is read or fetched."""
    settings = SHAPES[name] | ({} if layers is None else {"num_hidden_layers": layers})
    config = transformers.LlamaConfig(**settings)
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.eval().requires_grad_(requires_grad=False)
    return LoadedModel(
        model=model,
        tokenizer=cast(Any, None),
        descriptor=cast(Any, None),
        dtype=Dtype(str(dtype).removeprefix("torch.")),
        dtype_reason="asked for",
        device=device,
        load_seconds=0.0,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--layers", type=int, help="cut the model; the figures are then of that model")
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[way for way in WAYS if way != "packed"])
    parser.add_argument("--zeros", choices=ZEROS, help="which half of the blocks' weights are zeros; none if left out")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--generate-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--start-until-seconds", type=float, default=75, help="start no way after this time")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
