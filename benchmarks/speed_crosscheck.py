"""The benchmark's speed against the library timed plainly, in one process, the two taking turns.

python benchmarks/speed_crosscheck.py --backend vllm --checkpoint FOLDER --out crosscheck.json

Run it in the environment of the backend's image. "Plainly" is a clock around the library's own call, written here apart
from the harness: `LLM.generate` of vLLM, `generate` of transformers. Both sides continue the same prompts by one token
and by all; the difference is decoding. `--vllm-bench` first runs what `vllm bench latency` does, in a process alone, by
vLLM's defaults, and compares its latency of a whole batch with prefill and decoding together; it draws its tokens at
temperature 1, which it offers no way to change, where the other sides take the likeliest. The exit status is 1 where a
difference exceeds `--tolerance`; the file is written all the same.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.backends.base import BatchOrder, ServeOrder
from harness.backends.repeats import noise_floor
from harness.checkpoint import open_checkpoint, read_config
from harness.contract import DescribeRequest, Device, DeviceKind, Dtype, cpu_model, harness_digest
from harness.environment import describe_environment
from harness.options import NoOptions

WARM_UP = 2
VLLM_BENCH_LATENCY = """
from vllm.benchmarks.latency import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args())
"""
"""What `vllm bench latency` does, without what the `vllm` command imports for servers, which not every install has."""

Plain = Callable[[Sequence[Sequence[int]], int], float]
"""Seconds that the library takes for prompts, each continued by a number of tokens."""


def main() -> None:
    arguments = _arguments()
    bench = {size: _vllm_bench_seconds(size, arguments) for size in arguments.batch_sizes if arguments.vllm_bench}
    rows = {}
    with _serve(arguments) as engine:
        plain = PLAIN[arguments.backend](engine)
        for size in arguments.batch_sizes:
            row = rows[size] = _compare(engine, plain, size, arguments)
            if size in bench:
                row["vllm_bench_seconds"] = round(bench[size], 5)
                row["vllm_bench_difference"] = round(row["whole_seconds"] / bench[size] - 1, 5)
            print(size, row, file=sys.stderr, flush=True)
            _write(rows, arguments)
    worst = max(abs(value) for row in rows.values() for name, value in row.items() if name.endswith("difference"))
    if worst > arguments.tolerance:
        raise SystemExit(f"the largest difference is {worst:.1%}, more than {arguments.tolerance:.1%}")


def _write(rows: dict[int, dict[str, float]], arguments: argparse.Namespace) -> None:
    device = torch.cuda.get_device_name() if arguments.device is DeviceKind.CUDA else cpu_model()
    document = {
        "command": shlex.join(["python", *sys.argv]),
        "backend": arguments.backend,
        "checkpoint": open_checkpoint(arguments.checkpoint).digest,
        "device": device,
        "libraries": describe_environment(DescribeRequest(id="libraries", operation="describe")).libraries,
        "harness": harness_digest(),
        "tolerance": arguments.tolerance,
        "batches": rows,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _compare(engine: Any, plain: Plain, batch_size: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Turns of both sides, the first ones untimed. Differences are ours over theirs, less 1."""
    vocabulary = int(read_config(arguments.checkpoint)["vocab_size"])
    order = BatchOrder(batch_size, arguments.prompt_tokens, arguments.generate_tokens, seed=0)
    drawn = order.token_ids(vocabulary)
    ours, whole, theirs = [], [], []
    for number in range(WARM_UP + arguments.repeats):
        run = engine.run(order)
        first = plain(drawn, 1)
        everything = plain(drawn, arguments.generate_tokens)
        if number >= WARM_UP:
            ours.append(run.decode_seconds)
            whole.append(run.prefill_seconds + run.decode_seconds)
            theirs.append(everything - first)
    decoded = batch_size * (arguments.generate_tokens - 1)
    our_speed, their_speed = (decoded / statistics.median(seconds) for seconds in (ours, theirs))
    row = {
        "tokens_per_second": round(our_speed, 3),
        "plain_tokens_per_second": round(their_speed, 3),
        "difference": round(our_speed / their_speed - 1, 5),
        "whole_seconds": round(statistics.median(whole), 5),
    }
    floor = noise_floor(ours)
    return row if floor is None else row | {"noise_floor": round(floor, 5)}


def _serve(arguments: argparse.Namespace) -> AbstractContextManager[Any]:
    if arguments.backend == "vllm":
        from harness.backends.vllm.serving import serve
    else:
        from harness.backends.transformers import serve
    context_tokens = arguments.prompt_tokens + arguments.generate_tokens
    order = ServeOrder(
        checkpoint=arguments.checkpoint,
        device=Device(kind=arguments.device, threads=arguments.threads),
        dtype=arguments.dtype,
        context_tokens=context_tokens,
        batch_sizes=tuple(arguments.batch_sizes),
        kv_tokens=max(arguments.batch_sizes) * -(-context_tokens // 128) * 128,
        options=NoOptions(),
        work=Path(gettempdir()),
    )
    return serve(order)


def _plain_vllm(engine: Any) -> Plain:
    from vllm import SamplingParams

    llm = engine._loaded.llm

    def seconds(prompts: Sequence[Sequence[int]], tokens: int) -> float:
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        begin = time.perf_counter()
        llm.generate(asked, sampling, use_tqdm=False)
        return time.perf_counter() - begin

    return seconds


def _plain_transformers(engine: Any) -> Plain:
    model, device = engine.loaded.model, engine.loaded.device

    def seconds(prompts: Sequence[Sequence[int]], tokens: int) -> float:
        asked = torch.tensor(prompts, device=device)
        wanted = {"min_new_tokens": tokens, "max_new_tokens": tokens, "eos_token_id": None, "pad_token_id": 0}
        begin = time.perf_counter()
        with torch.inference_mode():
            model.generate(asked, attention_mask=torch.ones_like(asked), do_sample=False, **wanted)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    return seconds


PLAIN: dict[str, Callable[[Any], Plain]] = {"vllm": _plain_vllm, "transformers": _plain_transformers}


def _vllm_bench_seconds(batch_size: int, arguments: argparse.Namespace) -> float:
    """Median latency of a whole batch as vLLM's own command measures it, with the settings of the engine above."""
    settings = {
        "--model": arguments.checkpoint,
        "--input-len": arguments.prompt_tokens,
        "--output-len": arguments.generate_tokens,
        "--batch-size": batch_size,
        "--num-iters": arguments.repeats,
        "--num-iters-warmup": WARM_UP,
        "--dtype": arguments.dtype.value if arguments.dtype else "auto",
        "--max-model-len": arguments.prompt_tokens + arguments.generate_tokens,
        "--max-num-seqs": max(arguments.batch_sizes),
    }
    with TemporaryDirectory() as scratch:
        script, answer = Path(scratch) / "latency.py", Path(scratch) / "latency.json"
        script.write_text(VLLM_BENCH_LATENCY, encoding="utf-8")
        flags = ["--no-enable-prefix-caching", "--disable-detokenize", "--skip-tokenizer-init"]
        flags += ["--enforce-eager"] if arguments.device is DeviceKind.CPU else []
        options = [str(part) for pair in settings.items() for part in pair]
        command = [sys.executable, str(script), "--output-json", str(answer), *flags, *options]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return statistics.median(json.loads(answer.read_text(encoding="utf-8"))["latencies"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=PLAIN, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--device", type=DeviceKind, default=DeviceKind.CPU)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", type=Dtype)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--generate-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--vllm-bench", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
