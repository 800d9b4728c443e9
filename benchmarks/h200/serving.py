"""Speed and memory of each kind of compressed checkpoint in each backend, at a known model's shape.

python benchmarks/h200/serving.py --shape llama-2-7b --work /scratch --out benchmarks/h200/serving-llama-2-7b.json

Each figure is one contract request to `python -m harness`, as the orchestrator would send it, to a checkpoint of
`variants.py`. Native serves zeros in a request a batch size, since it chooses for one size how to hold them; all else
is one request for all sizes. Every round measures all variants in another order, dense first and again last. The
file is written after every request, and what it holds already is not measured again, so that a run that was cut short
goes on where it stopped. `serving_page.py` makes the overall metric and the page of such files.
"""

import argparse
import json
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.h200.roofline import copy_bytes_per_second, measure_peaks
from benchmarks.h200.shapes import SHAPES
from benchmarks.h200.variants import VARIANTS, make_variant
from harness.contract import harness_digest

ROOT = Path(__file__).parents[2]
BACKENDS = ("vllm", "native", "transformers")
SLOW_TO_START = "vllm"
"""While it starts, which takes longer, the next checkpoint is made; nothing is made while anything is timed."""
_OPTIONS = {"native": {"decoding": "auto", "sparse": "auto"}}


def main() -> None:
    arguments = _arguments()
    document = _opened(arguments)
    begin = time.perf_counter()
    waiting = [turn for turn in _turns(arguments) if _missing(document, turn, arguments)]
    with ThreadPoolExecutor(1) as maker:
        made = {turn: maker.submit(_make, turn, arguments) for turn in waiting[:1]}
        for turn, following in zip(waiting, [*waiting[1:], None], strict=True):
            if time.perf_counter() - begin > arguments.start_until_seconds:
                break
            checkpoint = made[turn].result()
            for backend, sizes in _missing(document, turn, arguments):
                if following is not None and following not in made and backend == SLOW_TO_START:
                    made[following] = maker.submit(_make, following, arguments)
                row = _measure(turn, backend, sizes, checkpoint, arguments)
                _note(document, row, arguments)
                print(turn.label, backend, _short(row), f"{time.perf_counter() - begin:.0f} s", flush=True)
            if not arguments.keep:
                shutil.rmtree(checkpoint)
            if following is not None and following not in made:
                made[following] = maker.submit(_make, following, arguments)


@dataclass(frozen=True)
class Turn:
    """One variant in one round; dense is the first of a round and, `again`, its last."""

    round: int
    variant: str
    again: bool = False

    @property
    def label(self) -> str:
        return f"{self.variant}{'-again' if self.again else ''} {self.round}"


def _turns(arguments: argparse.Namespace) -> list[Turn]:
    others = [variant for variant in arguments.variants if variant != "dense"]
    found = []
    for number in range(1, arguments.rounds + 1):
        order = random.Random(number).sample(others, len(others))  # noqa: S311  the order of a round, no secret
        found += [
            Turn(number, "dense"),
            *(Turn(number, variant) for variant in order),
            Turn(number, "dense", again=True),
        ]
    return found


def _missing(document: dict[str, Any], turn: Turn, arguments: argparse.Namespace) -> list[tuple[str, list[int]]]:
    done = [
        (row["backend"], row["batch_sizes"])
        for row in document["rows"]
        if (row["round"], row["variant"], row["again"]) == (turn.round, turn.variant, turn.again)
    ]
    return [request for request in _requests(turn.variant, arguments) if request not in done]


def _note(document: dict[str, Any], row: dict[str, Any], arguments: argparse.Namespace) -> None:
    document["failed" if "failed" in row else "rows"].append(row)
    document["commands"] = sorted({*document["commands"], shlex.join(["python", *sys.argv])})
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _requests(variant: str, arguments: argparse.Namespace) -> list[tuple[str, list[int]]]:
    """Backends with the batch sizes of one request each."""
    found: list[tuple[str, list[int]]] = []
    for backend in arguments.backends:
        sizes = arguments.batch_sizes
        alone = backend == "native" and VARIANTS[variant].zeros is not None
        found += [(backend, [size]) for size in sizes] if alone else [(backend, sizes)]
    return found


def _opened(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.out.is_file():
        found: dict[str, Any] = json.loads(arguments.out.read_text(encoding="utf-8"))
        return found
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    document = {
        "commands": [],
        "shape": arguments.shape,
        "layers": arguments.layers or SHAPES[arguments.shape]["num_hidden_layers"],
        "weights": "random, float16",
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor(),
        "peaks": measure_peaks(device).__dict__ if on_gpu else None,
        "copy_bytes_per_second": copy_bytes_per_second(device),
        "rows": [],
        "failed": [],
    }
    if on_gpu:
        torch.cuda.empty_cache()
    return document


def _make(turn: Turn, arguments: argparse.Namespace) -> Path:
    variant = turn.variant
    folder: Path = arguments.work / f"{arguments.shape}-{variant if arguments.keep else turn.label}".replace(" ", "-")
    if arguments.keep and folder.is_dir():
        return folder
    for old in (folder, folder.with_name(f"{folder.name}.staging")):
        shutil.rmtree(old, ignore_errors=True)
    begin = time.perf_counter()
    device = torch.device(arguments.device)
    descriptor = make_variant(folder, arguments.shape, variant, layers=arguments.layers, device=device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    seconds = time.perf_counter() - begin
    print(f"made {variant}, {descriptor.size_bytes / 1e9:.2f} GB, in {seconds:.0f} s", file=sys.stderr, flush=True)
    return folder


def _measure(
    turn: Turn, backend: str, sizes: list[int], checkpoint: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    output = arguments.work / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    request = {
        "contract": 1,
        "id": f"{turn.variant}-{backend}-{sizes[0]}",
        "operation": "benchmark",
        "device": {"kind": arguments.device},
        "inputs": {"checkpoint": str(checkpoint)},
        "output": str(output),
        "parameters": {
            "backend": backend,
            "prompt_tokens": arguments.prompt_tokens,
            "generate_tokens": arguments.generate_tokens,
            "batch_sizes": sizes,
            "repeats": arguments.repeats,
            "options": _OPTIONS.get(backend, {}),
        },
    }
    begun = datetime.now(UTC)
    with (arguments.work / f"{turn.variant}-{backend}-{sizes[0]}.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, "-m", "harness"],
            input=json.dumps(request),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=os.environ | {"LLMCBENCH_IMAGE": str(ROOT / "images" / backend / "image.toml")},
            check=False,
        )
        log.flush()
        tail = Path(log.name).read_text(encoding="utf-8", errors="replace")[-3000:].replace(f"{ROOT}/", "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    final = events[-1] if events else {"event": None}
    row = {
        **asdict(turn),
        "backend": backend,
        "batch_sizes": sizes,
        "begun": begun.isoformat(),
        "ended": datetime.now(UTC).isoformat(),
        "harness": harness_digest(),
        "parameters": request["parameters"],
    }
    if final["event"] != "result":
        return {**row, "failed": final, "stderr": tail}
    return {**row, "result": final["result"], "environment": final.get("environment")}


def _short(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"FAILED {row['failed'].get('message')} {row['stderr'][-800:]}"
    speeds = {speed["batch_size"]: round(speed["decode_tokens_per_second"], 1) for speed in row["result"]["speeds"]}
    return f"{speeds} {'; '.join(row['result']['notes'])}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--layers", type=int, help="cut the model; the figures are then of that model")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu to try the script out")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--generate-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="each measures all variants, dense first and again last")
    parser.add_argument("--start-until-seconds", type=float, default=float("inf"), help="begin no variant after this")
    parser.add_argument("--work", type=Path, required=True, help="a folder for one checkpoint at a time; 20 GB")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints for the next round; 70 GB for all")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
