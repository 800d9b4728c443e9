"""Temporary: ways to load ahead in the kernels for one token. python benchmarks/h200/kernel_variants.py --out FILE"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]

import triton.language as tl

from harness.backends.sparse import gap_kernels, gaps, two_four, two_four_kernels
from harness.backends.sparse.timing import copies_beyond_cache, microseconds_each

SHAPES = ("12288x4096", "4096x4096", "22016x4096", "4096x11008")


def variants() -> Any:
    folder = Path(tempfile.mkdtemp())
    found = {}
    for name in ("g_stage", "p_stage", "p_ahead"):
        (folder / f"{name}.py").write_text((HERE / f"variant_{name}.txt").read_text())
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        found[name] = module.multiply_one_token
    return found


def weight_of(kind: str, rows: int, inputs: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(rows, inputs, generator=generator, device="cuda")
    drawn = torch.rand(rows, inputs, generator=generator, device="cuda")
    if kind == "two-four":
        dropped = drawn.view(rows, -1, 4).argsort(-1)[..., :2]
        return weight.view(rows, -1, 4).scatter(-1, dropped, 0).view(rows, inputs).half()
    if kind == "skewed":
        share = torch.linspace(0.2, 0.8, rows, device="cuda")[torch.randperm(rows, device="cuda")]
        return (weight * (drawn >= share[:, None])).half()
    return (weight * (drawn >= 0.5)).half()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    begin = time.perf_counter()
    document: dict[str, Any] = {"device": torch.cuda.get_device_name(), "shapes": {}}
    other = variants()
    for shape in arguments.shapes:
        rows, inputs = map(int, shape.split("x"))
        entries: dict[str, Any] = {}
        document["shapes"][shape] = entries
        x = torch.randn(1, inputs, device="cuda").half()
        y = torch.empty(1, rows, dtype=torch.float16, device="cuda")

        def timed(name: str, calls: list[Any], exact: torch.Tensor, held: int) -> None:
            entry: dict[str, Any] = {"bytes": held}
            try:
                y.fill_(float("nan"))
                calls[0]()
                entry["error"] = float((y.double() - exact).norm() / exact.norm())
                entry["microseconds"] = round(microseconds_each(calls), 2)
            except Exception as failure:
                entry["failed"] = f"{type(failure).__name__}: {failure}"[:300]
            entries[name] = entry
            arguments.out.write_text(json.dumps(document, indent=1) + "\n")

        for kind in ("unstructured", "skewed", "two-four"):
            dense = weight_of(kind, rows, inputs)
            exact = x.double() @ dense.double().T
            if kind == "unstructured":
                copies = [dense.clone() for _ in range(copies_beyond_cache(dense.nbytes, x.device))]
                timed("dense", [partial(torch.mm, x, c.T, out=y) for c in copies], exact, dense.nbytes)
                del copies
            packed: Any = two_four.pack(dense, name="x") if kind == "two-four" else gaps.pack(dense, name="x")
            copies = [packed.clone() for _ in range(copies_beyond_cache(packed.held_bytes, x.device))]
            if kind == "two-four":
                tiles, segments, _ = packed.stream.shape

                def run(kernel: Any, warps: int, more: dict[str, int], c: Any) -> None:
                    kernel[(tiles,)](
                        c.stream, x, y, rows, segments, dtype=tl.float16, warps=warps, num_warps=warps, **more
                    )

                ways = [("now", two_four_kernels.multiply_one_token, {}), ("ahead", other["p_ahead"], {})]
                ways += [(f"stages{n}", other["p_stage"], {"stages": n}) for n in (2, 3, 4)]
            else:

                def run(kernel: Any, warps: int, more: dict[str, int], c: Any) -> None:
                    tensors = (c.stream, c.starts, c.ends, c.order)
                    kernel[(len(c.order),)](
                        *tensors, x, y, rows, dtype=tl.float16, warps=warps, num_warps=warps, **more
                    )

                ways = [("now", gap_kernels.multiply_one_token, {})]
                ways += [(f"stages{n}", other["g_stage"], {"stages": n}) for n in (2, 3, 4)]
            for way, kernel, more in ways if kind != "skewed" else ways[:1]:
                for warps in (2, 4, 8, 16, 32):
                    calls = [partial(run, kernel, warps, more, c) for c in copies]
                    timed(f"{kind}/{way}/w{warps}", calls, exact, packed.held_bytes)
            del copies, packed, dense
            torch.cuda.empty_cache()
    document["wall_seconds"] = round(time.perf_counter() - begin, 1)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(document["device"], "microseconds (times faster than dense), worst error; wall", document["wall_seconds"])
    names = list(dict.fromkeys(name for entries in document["shapes"].values() for name in entries))
    for name in names:
        cells, worst = [], 0.0
        for entries in document["shapes"].values():
            entry = entries.get(name, {})
            worst = max(worst, entry.get("error", 9.0))
            if "microseconds" not in entry:
                cells.append(f"{'failed':>13}")
                continue
            gain = entries["dense"]["microseconds"] / entry["microseconds"]
            cells.append(f"{entry['microseconds']:6.1f} ({gain:4.2f})")
        print(f"{name:32}", *cells, f"{worst:.1e}{'' if worst < 1e-3 else ' WRONG'}")


if __name__ == "__main__":
    main()
