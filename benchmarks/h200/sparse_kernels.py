"""Microseconds of the sparse decoding kernels beside cuBLAS, at the shapes of LLaMA-2-7B's linears.

python benchmarks/h200/sparse_kernels.py --out benchmarks/h200/sparse-kernels.json

Weights are random. Every product runs in a CUDA graph over so many copies of its weight that none stays in the
second-level cache. The file is written again after every shape, so that a run that is cut short leaves what it has.
"""

import argparse
import json
import platform
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import triton

from harness.contract import harness_digest
from harness.kernels.sparse import gaps, two_four
from harness.kernels.sparse.choice import ChoiceTable, measure
from harness.kernels.sparse.choice import Path as Way
from harness.kernels.sparse.launch import Launch, SparseWeight, multiply

SHAPES = ("4096x4096", "12288x4096", "22016x4096", "4096x11008", "11008x4096")
BLOCK = ("12288x4096", "4096x4096", "22016x4096", "4096x11008")
LAYOUTS = ("two-four", "gaps")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> None:
    arguments = _arguments()
    begin = time.perf_counter()
    document: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "harness": harness_digest(),
        "dtype": arguments.dtype,
        "layouts": {},
    }
    for layout in arguments.layouts:
        results: dict[str, Any] = {}
        document["layouts"][layout] = {"shapes": results, "block_speed_up": {}}
        for shape in arguments.shapes:
            results[shape] = _measure(layout, shape, arguments)
            document["layouts"][layout]["block_speed_up"] = _block_speed_up(results, arguments.tokens)
            document["wall_seconds"] = round(time.perf_counter() - begin, 1)
            arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            speed_ups = {count: row["speed_up"] for count, row in results[shape]["tokens"].items()}
            print(layout, shape, speed_ups, f"{document['wall_seconds']} s", file=sys.stderr, flush=True)


@torch.inference_mode()
def _measure(layout: str, shape: str, arguments: argparse.Namespace) -> dict[str, Any]:
    rows, inputs = (int(size) for size in shape.split("x"))
    dense = _random(layout, rows, inputs, DTYPES[arguments.dtype])
    packed = two_four.pack(dense, name=shape) if layout == "two-four" else gaps.pack(dense, name=shape)
    table = measure(packed, tokens=arguments.tokens, cusparselt=arguments.cusparselt)
    return {
        "dense_bytes": dense.nbytes,
        "packed_bytes": packed.held_bytes,
        "zeros": round(1 - int(dense.count_nonzero()) / dense.numel(), 4),
        "notes": table.notes,
        "tokens": {count: _row(table, count, packed, dense) for count in arguments.tokens},
    }


def _row(table: ChoiceTable, count: int, packed: SparseWeight, dense: torch.Tensor) -> dict[str, Any]:
    timings = {timing.path: timing for timing in table.timings if timing.tokens == count}
    row: dict[str, Any] = {f"{path.value}_microseconds": round(timings[path].microseconds, 2) for path in timings}
    for path, held in ((Way.KERNEL, packed.held_bytes), (Way.DENSE, dense.nbytes)):
        if path in timings:
            row[f"{path.value}_bytes_per_second"] = round(held / (timings[path].microseconds * 1e-6))
    speed_up = table.speed_up(count)
    row |= {"path": table.choose(count).path, "speed_up": None if speed_up is None else round(speed_up, 3)}
    if Way.KERNEL in timings and (launch := timings[Way.KERNEL].launch) is not None:
        row |= {"launch": asdict(launch), "relative_error": _relative_error(packed, dense, count, launch)}
    return row


def _relative_error(packed: SparseWeight, dense: torch.Tensor, count: int, launch: Launch) -> float:
    generator = torch.Generator(dense.device).manual_seed(count)
    x = torch.randn(count, dense.shape[1], generator=generator, device=dense.device).to(dense.dtype)
    exact = x.double() @ dense.double().T
    return float((multiply(packed, x, launch).double() - exact).norm() / exact.norm())


def _block_speed_up(results: dict[str, Any], tokens: list[int]) -> dict[int, float]:
    """All linears of one LLaMA-2-7B block, query, key and value joined, gate and up joined; empty until measured."""
    if not set(BLOCK) <= results.keys():
        return {}
    rows = {count: [results[shape]["tokens"][count] for shape in BLOCK] for count in tokens}
    return {
        count: round(
            sum(row["dense_microseconds"] for row in each)
            / sum(row[f"{row['path'].value}_microseconds"] for row in each),
            3,
        )
        for count, each in rows.items()
    }


def _random(layout: str, rows: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(rows, inputs, generator=generator, device="cuda")
    drawn = torch.rand(rows, inputs, generator=generator, device="cuda")
    if layout == "two-four":
        dropped = drawn.view(rows, -1, 4).argsort(-1)[..., :2]
        return weight.view(rows, -1, 4).scatter(-1, dropped, 0).view(rows, inputs).to(dtype)
    return (weight * (drawn >= 0.5)).to(dtype)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="rows x inputs, such as 4096x4096")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128, 512, 2048])
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--cusparselt", action="store_true", help="time cuSPARSELt as well")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
