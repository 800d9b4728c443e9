"""Temporary: many kernels for one token beside each other, to choose from. Writes after each entry, prints a table.

python benchmarks/h200/kernel_variants.py --out $OUT/variants.json
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import triton.language as tl
import variant_kernels

from harness.backends.sparse import bitmask, gaps, two_four
from harness.backends.sparse.launch import candidates, multiply
from harness.backends.sparse.timing import copies_beyond_cache, microseconds_each

SHAPES = ("12288x4096", "4096x4096", "22016x4096", "4096x11008")


class Cuda:
    """Kernels of kernel_variants.cu, compiled by nvcc and started through the driver."""

    def __init__(self) -> None:
        major, minor = torch.cuda.get_device_capability()
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder) / "v.cubin"
            nvcc = "nvcc" if not os.path.exists("/usr/local/cuda/bin/nvcc") else "/usr/local/cuda/bin/nvcc"
            source = str(HERE / "kernel_variants.cu")
            command = [nvcc, f"-arch=sm_{major}{minor}", "-DBF16=0", "-O3", "-cubin", "-o", str(cubin), source]
            subprocess.run(command, check=True)
            self._image = cubin.read_bytes()
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._module = ctypes.c_void_p()
        torch.cuda.synchronize()
        self._call("cuModuleLoadData", ctypes.byref(self._module), self._image)
        self._functions: dict[str, ctypes.c_void_p] = {}

    def launch(self, name: str, grid: int, threads: int, shared: int, *arguments: Any) -> None:
        if name not in self._functions:
            function = ctypes.c_void_p()
            self._call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
            self._call("cuFuncSetAttribute", function, 8, 196608)
            self._functions[name] = function
        held = [
            ctypes.c_void_p(one.data_ptr()) if isinstance(one, torch.Tensor) else ctypes.c_int(one) for one in arguments
        ]
        pointers = (ctypes.c_void_p * len(held))(*[ctypes.addressof(one) for one in held])
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        sizes = (grid, 1, 1, threads, 1, 1, shared)
        self._call("cuLaunchKernel", self._functions[name], *map(ctypes.c_uint, sizes), stream, pointers, None)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} answered {code}")


def pack_pairs(dense: torch.Tensor) -> torch.Tensor:
    """int32 [tiles, segments, 576]: 64 words of 2-bit places, then [4, 32, 4] words of values; 64 inputs a segment."""
    packed = two_four.pack(dense, name="pairs")
    rows, inputs = dense.shape
    assert rows % 32 == 0 and inputs % 64 == 0
    values = dense.view(rows, -1, 4)
    present = (values != 0).long()
    score = present * 8 + torch.arange(4, 0, -1, device=dense.device)
    places = score.topk(2, dim=-1).indices.sort(-1).values
    chosen = values.gather(-1, places).reshape(rows // 32, 32, inputs // 64, 32)
    places = places.reshape(rows // 32, 32, inputs // 64, 2, 16)
    shifts = 2 * torch.arange(16, device=dense.device)
    masks = (places << shifts).sum(-1).to(torch.int32).permute(0, 2, 1, 3).reshape(rows // 32, inputs // 64, 64)
    words = chosen.contiguous().view(torch.int32).view(rows // 32, 32, inputs // 64, 4, 4).permute(0, 2, 3, 1, 4)
    del packed
    return torch.cat((masks, words.reshape(rows // 32, inputs // 64, 512)), dim=-1).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    begin = time.perf_counter()
    document: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "shapes": {}}
    try:
        cuda = Cuda()
    except Exception:
        cuda = None
        document["cuda_error"] = traceback.format_exc()[-2000:]
        print(document["cuda_error"], file=sys.stderr)
    for shape in arguments.shapes:
        rows, inputs = map(int, shape.split("x"))
        entries: dict[str, Any] = {}
        document["shapes"][shape] = entries
        x = torch.randn(1, inputs, device="cuda").half()
        y = torch.empty(1, rows, dtype=torch.float16, device="cuda")
        runner = Runner(entries, x, y, document, arguments.out)
        for kind in ("unstructured", "two-four"):
            dense = weight_of(kind, rows, inputs)
            runner.exact = x.double() @ dense.double().T
            if kind == "unstructured":
                copies = [dense.clone() for _ in range(copies_beyond_cache(dense.nbytes, x.device))]
                runner.time("dense", [partial(torch.mm, x, copy.T, out=y) for copy in copies], dense.nbytes)
                del copies
                time_gaps(runner, dense, cuda)
                old: Any = bitmask.pack(dense, name="x")
            else:
                time_pairs(runner, dense, cuda)
                old = two_four.pack(dense, name="x")
            copies = [old.clone() for _ in range(copies_beyond_cache(old.held_bytes, x.device))]
            for launch in candidates(old, 1):
                name = f"old-{kind}/{launch.block_rows}x{launch.block_width}w{launch.warps}"
                runner.time(name, [partial(old_way, copy, x, y, launch) for copy in copies], old.held_bytes)
            del copies, old, dense
            torch.cuda.empty_cache()
        document["wall_seconds"] = round(time.perf_counter() - begin, 1)
        runner.write()
    table(document)


def old_way(copy: Any, x: torch.Tensor, y: torch.Tensor, launch: Any) -> None:
    y.copy_(multiply(copy, x, launch))


class Runner:
    def __init__(self, entries: dict[str, Any], x: torch.Tensor, y: torch.Tensor, document: Any, out: Path) -> None:
        self.entries, self.x, self.y, self.document, self.out = entries, x, y, document, out
        self.exact = y.double()

    def time(self, name: str, calls: list[Any], held_bytes: int) -> None:
        entry: dict[str, Any] = {"bytes": held_bytes}
        try:
            self.y.fill_(float("nan"))
            calls[0]()
            torch.cuda.synchronize()
            entry["error"] = float((self.y.double() - self.exact).norm() / self.exact.norm())
            entry["microseconds"] = round(microseconds_each(calls), 2)
            entry["terabytes_per_second"] = round(held_bytes / entry["microseconds"] / 1e6, 2)
        except Exception as failure:
            entry["failed"] = f"{type(failure).__name__}: {failure}"[:500]
            print(name, entry["failed"], file=sys.stderr)
        self.entries[name] = entry
        self.write()

    def write(self) -> None:
        self.out.write_text(json.dumps(self.document, indent=1) + "\n")


def time_gaps(runner: Runner, dense: torch.Tensor, cuda: Cuda | None) -> None:
    packed = gaps.pack(dense, name="x")
    copies = [packed.clone() for _ in range(copies_beyond_cache(packed.held_bytes, dense.device))]
    tiles = len(packed.order)
    rows, inputs = dense.shape
    x, y = runner.x, runner.y

    def triton_way(kernel: Any, warps: int, copy: gaps.GapWeight) -> None:
        tensors = (copy.stream, copy.starts, copy.ends, copy.order)
        kernel[(tiles,)](*tensors, x, y, rows, dtype=tl.float16, warps=warps, num_warps=warps)

    def cuda_way(name: str, warps: int, copy: gaps.GapWeight) -> None:
        tensors = (copy.stream, copy.starts, copy.ends, copy.order)
        cuda.launch(name, tiles, 32 * warps, 4 * inputs, *tensors, x, y, rows, inputs)

    for warps in (4, 8, 16, 32):
        for name in ("gap_kernel", "gap_ahead_kernel"):
            way = partial(triton_way, getattr(variant_kernels, name), warps)
            runner.time(f"{name}/w{warps}", [partial(way, copy) for copy in copies], packed.held_bytes)
    cases = [("gaps_1", 10), ("gaps_1", 16), ("gaps_1", 24), ("gaps_1", 32), ("gaps_1_small", 4), ("gaps_1_small", 5)]
    cases += [("gaps_1_small", 6), ("gaps_1_small", 8), ("gaps_2_small", 4), ("gaps_2_small", 8)]
    for name, warps in cases if cuda else ():
        calls = [partial(cuda_way, name, warps, copy) for copy in copies]
        runner.time(f"cuda-{name}/w{warps}", calls, packed.held_bytes)


def time_pairs(runner: Runner, dense: torch.Tensor, cuda: Cuda | None) -> None:
    packed = pack_pairs(dense)
    copies = [packed.clone() for _ in range(copies_beyond_cache(packed.nbytes, dense.device))]
    tiles, segments = packed.shape[:2]
    rows, inputs = dense.shape
    x, y = runner.x, runner.y

    def triton_way(kernel: Any, warps: int, copy: torch.Tensor) -> None:
        kernel[(tiles,)](copy, x, y, rows, segments, dtype=tl.float16, warps=warps, num_warps=warps)

    def cuda_way(name: str, warps: int, copy: torch.Tensor) -> None:
        cuda.launch(name, tiles, 32 * warps, 4 * inputs, copy, x, y, rows, inputs, segments)

    for warps in (4, 8, 16, 32):
        for name in ("pair_kernel", "pair_ahead_kernel"):
            way = partial(triton_way, getattr(variant_kernels, name), warps)
            runner.time(f"{name}/w{warps}", [partial(way, copy) for copy in copies], packed.nbytes)
    cases = [("pairs_1", 10), ("pairs_1", 16), ("pairs_1", 24), ("pairs_1", 32), ("pairs_1_small", 4)]
    cases += [("pairs_1_small", 5), ("pairs_1_small", 6), ("pairs_1_small", 8)]
    cases += [("pairs_2_small", 4), ("pairs_2_small", 8)]
    for name, warps in cases if cuda else ():
        calls = [partial(cuda_way, name, warps, copy) for copy in copies]
        runner.time(f"cuda-{name}/w{warps}", calls, packed.nbytes)


def weight_of(kind: str, rows: int, inputs: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(rows, inputs, generator=generator, device="cuda")
    drawn = torch.rand(rows, inputs, generator=generator, device="cuda")
    if kind == "two-four":
        dropped = drawn.view(rows, -1, 4).argsort(-1)[..., :2]
        return weight.view(rows, -1, 4).scatter(-1, dropped, 0).view(rows, inputs).half()
    return (weight * (drawn >= 0.5)).half()


def table(document: dict[str, Any]) -> None:
    shapes = document["shapes"]
    names = list(dict.fromkeys(name for entries in shapes.values() for name in entries))
    print(f"{document['device']}, microseconds (times faster than dense), worst relative error; wall", end=" ")
    print(document.get("wall_seconds"))
    for name in names:
        cells = []
        worst = 0.0
        for entries in shapes.values():
            entry = entries.get(name, {})
            worst = max(worst, entry.get("error", 9.0))
            if "microseconds" not in entry:
                cells.append(f"{'failed':>13}")
                continue
            gain = entries["dense"].get("microseconds", 0) / entry["microseconds"]
            cells.append(f"{entry['microseconds']:6.1f} ({gain:4.2f})")
        print(f"{name:32}", *cells, f"{worst:.1e}{'' if worst < 1e-3 else ' WRONG'}")


if __name__ == "__main__":
    main()
