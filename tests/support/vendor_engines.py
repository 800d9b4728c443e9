"""The stand-ins of TensorRT-LLM and MLC-LLM in `vendor_fakes`: on the path of a test, or of a worker of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.contract import FINAL_EVENT, BenchmarkParameters, BenchmarkRequest, Device, FinalEvent
from tests.support.every_image import write_every_image

FAKES = Path(__file__).parent / "vendor_fakes"
PROJECT = Path(__file__).parents[2]
SHORT: dict[str, Any] = {
    "prompt_tokens": 8,
    "generate_tokens": 5,
    "batch_sizes": (1, 3),
    "warmup": 1,
    "repeats": 2,
}


@dataclass
class VendorEngine:
    """Where a stand-in writes what it was asked, and how it is told to behave."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def behave(self, *names: str) -> None:
        self.monkeypatch.setenv("FAKE_ENGINE", ",".join(names))

    def asked(self, what: str) -> list[dict[str, Any]]:
        log = self.folder / "asked.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        return [line for line in map(json.loads, lines) if line["what"] == what]


@dataclass(frozen=True)
class Ended:
    """A worker that has ended: all lines of its real stdout, its last event where it has one, status and stderr."""

    lines: list[str]
    final: FinalEvent | None
    status: int
    stderr: str


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> VendorEngine:
    """Make both stand-ins importable here and in processes that the adapters start, until the test ends."""
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.setenv("PYTHONPATH", f"{FAKES}{os.pathsep}{PROJECT}")
    monkeypatch.setenv("FAKE_ENGINE_RECORD", str(folder / "asked.jsonl"))
    for name in [one for one in sys.modules if one.partition(".")[0] in ("tensorrt_llm", "mlc_llm")]:
        monkeypatch.delitem(sys.modules, name)
    return VendorEngine(folder, monkeypatch)


def benchmark_request(checkpoint: Path, **parameters: Any) -> BenchmarkRequest:
    output = checkpoint.parent / "out"
    output.mkdir(exist_ok=True)
    return BenchmarkRequest(
        id="test",
        device=Device(threads=1),
        inputs={"checkpoint": str(checkpoint)},
        output=str(output),
        parameters=BenchmarkParameters(**{**SHORT, **parameters}),
    )


def work(request: BenchmarkRequest, folder: Path) -> Ended:
    """One request to `python -m harness` in a process of its own, as an image that offers every backend.

    Its temporary folder is below `folder`, as an orchestrator's worker has one of its own, which goes with it.
    """
    image, temporary = folder / "image.toml", folder / "temporary"
    write_every_image(image)
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "harness"],
        input=request.model_dump_json(),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LLMCBENCH_IMAGE": str(image), "TMPDIR": str(temporary)},
    )
    lines = done.stdout.splitlines()
    ended = bool(lines) and json.loads(lines[-1])["event"] in ("result", "error")
    final = FINAL_EVENT.validate_json(lines[-1]) if ended else None
    return Ended(lines, final, done.returncode, done.stderr)
