"""One step of methods_vs_peers.py inside the environment under test: `measured_run.py STEP < request > answer`.

`compress` does what a worker does with a compress request, with one clock more, around the method alone: no loading,
no drawing of calibration text, no writing. `evaluate` is the worker's own. `masks` compares two checkpoints' zeros.
"""

import hashlib
import importlib.metadata
import io
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "numpy", "llmcompressor", "compressed-tensors", "gptqmodel")
_BLOCK_NUMBER = re.compile(r"\.layers\.(\d+)\.")
_FEWEST_ZEROS = 0.01
"""A tensor with fewer zeros than this share was not pruned."""


@dataclass
class Clock:
    """Inside the method: wall seconds, and the processor's summed over threads, which other processes' load changes
    less; and the sha256 of the token ids that it was given."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    tokens_sha256: str = ""


class Clocked:
    """A compressor with a clock around `compress`; see `harness.methods.base.Compressor`."""

    def __init__(self, compressor: Any, clock: Clock) -> None:
        self._compressor = compressor
        self._clock = clock
        self.options = compressor.options

    def check(self, blocks: Sequence[Any]) -> None:
        self._compressor.check(blocks)

    def compress(self, context: Any) -> Any:
        from harness.telemetry import Stopwatch

        digest = hashlib.sha256()
        for sequence in context.sequences:
            digest.update(sequence.numpy().tobytes())
        self._clock.tokens_sha256 = digest.hexdigest()
        begin = time.process_time()
        with Stopwatch(context.device) as watch:
            outcome = self._compressor.compress(context)
        self._clock.seconds = watch.seconds
        self._clock.cpu_seconds = time.process_time() - begin
        return outcome


def compress(document: dict[str, Any]) -> dict[str, Any]:
    from harness.contract import CompressRequest
    from harness.methods import job
    from harness.reporter import Reporter

    clock = Clock()
    parse = job.parse_request
    job.parse_request = lambda parameters: Clocked(parse(parameters), clock)
    result = job.compress(CompressRequest.model_validate(document), Reporter(io.StringIO()))
    return {
        "method_seconds": clock.seconds,
        "method_cpu_seconds": clock.cpu_seconds,
        "tokens_sha256": clock.tokens_sha256,
        "cost": result.cost.model_dump(mode="json"),
        "artifact_digest": result.artifact.digest,
        "artifact_bytes": result.artifact.size_bytes,
        "weights_sha256": {
            name: entry.sha256 for name, entry in result.artifact.files.items() if name.endswith(".safetensors")
        },
        "notes": list(result.artifact.notes),
        "libraries": installed_libraries(),
    }


def evaluate(document: dict[str, Any]) -> dict[str, Any]:
    from harness.contract import EvaluateRequest
    from harness.evaluation import run
    from harness.reporter import Reporter

    result = run(EvaluateRequest.model_validate(document), Reporter(io.StringIO()))
    return result.model_dump(mode="json")


def masks(document: dict[str, Any]) -> dict[str, float]:
    """`overlap`: zeros in both, over zeros in either; `first_block`: the same in the first block, which both sides fed
    with the same inputs. `agreement`: weights that are zero in both or in neither."""
    from safetensors import safe_open

    first, second = (_tensor_files(Path(document[name])) for name in ("first", "second"))
    counts: dict[int, Counter[str]] = {}
    for name in sorted(first.keys() & second.keys()):
        with safe_open(first[name], framework="pt") as one, safe_open(second[name], framework="pt") as other:
            here, there = one.get_tensor(name) == 0, other.get_tensor(name) == 0
        number = _BLOCK_NUMBER.search(name)
        if number is None or here.dim() != 2 or min(here.float().mean(), there.float().mean()) < _FEWEST_ZEROS:
            continue
        counts.setdefault(int(number.group(1)), Counter()).update(
            both=int((here & there).sum()),
            either=int((here | there).sum()),
            equal=int((here == there).sum()),
            count=here.numel(),
        )
    if not counts:
        raise SystemExit("the checkpoints share no pruned tensor")
    total = sum(counts.values(), Counter())
    begin = counts[min(counts)]
    return {
        "overlap": total["both"] / total["either"],
        "first_block": begin["both"] / begin["either"],
        "agreement": total["equal"] / total["count"],
    }


def _tensor_files(folder: Path) -> dict[str, Path]:
    from safetensors import safe_open

    placed: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            placed |= dict.fromkeys(file.keys(), path)
    return placed


def installed_libraries() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


STEPS: dict[str, Callable[[dict[str, Any]], Any]] = {"compress": compress, "evaluate": evaluate, "masks": masks}


def main() -> int:
    from harness.errors import WorkerError
    from harness.serve import claim_stdout

    answer = claim_stdout()
    document = json.load(sys.stdin)
    try:
        json.dump({"ok": STEPS[sys.argv[1]](document)}, answer)
    except WorkerError as failure:
        json.dump({"failed": f"{failure.message} ({failure.hint})"}, answer)
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
