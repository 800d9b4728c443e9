"""This project's scorer against lm-eval's own Hugging Face model: same checkpoint, same token requests, same machine.

Task by task both sides score the same items in turn, ours first; each is a process that keeps its model, and while one
computes the other waits. Figures are medians over `--repeats`. Loading and preparing are not counted; what lm-eval
spends on searching a batch size is counted and shown by itself, since it searches at every call.

    benchmarks/eval_vs_lm_eval.py --checkpoint DIR [--data DIR] [--tasks piqa,mmlu-5shot] [--limit 200]
        [--dtype bfloat16] [--device cuda] [--repeats 3] [--peer-batch-size auto] [--seconds 540] [--output FILE]

Every measurement is appended to FILE.runs.jsonl at once. The same command again goes on where it was, also after a
kill; `--seconds` ends it in time. FILE is written anew after each task: provenance, summaries, and every item whose
likeliest choice differs, with both sides' values. `--sides ours` measures ours alone. `--data` is a folder in the
layout of LLMCBENCH_DATA. Ends with status 3 while something is left, and with status 1 if in float32 a log-likelihood
differs by more than 1e-3 of its value or less than 99.8 % of the picks are the same.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

CHOICE_TASKS = "arc_easy,arc_challenge,hellaswag,piqa,winogrande,qnli,mnli,advglue,truthfulqa,mmlu,mmlu-5shot"
SIDES = ("ours", "lm-eval")
LARGEST_DIFFERENCE = 1e-3
FEWEST_SAME_PICKS = 0.998
_KEPT_OUT = ("checkpoint", "data", "tasks", "sides", "repeats", "seconds", "output")
"""Arguments that may change between two calls whose measurements stand together."""

Run = dict[str, Any]


class Side:
    """A running `eval_sides.py`, started when it is first needed."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._process: subprocess.Popen[str] | None = None
        self.loaded: dict[str, Any] = {}

    def score(self, task: str, deadline: float) -> dict[str, Any] | None:
        """None if it had not finished at `deadline` (of `time.monotonic`); it is gone then.

        Raises:
            SystemExit: the process failed.
        """
        process = self._process or self._start()
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), process.kill)
        timer.daemon = True
        timer.start()
        try:
            self.loaded = self.loaded or self._read(process)
            assert process.stdin is not None  # noqa: S101  it is a pipe
            process.stdin.write(task + "\n")
            process.stdin.flush()
            return self._read(process)
        except (EOFError, BrokenPipeError):
            if time.monotonic() < deadline:
                raise SystemExit(f"{self._order['side']} failed at {task}: see above") from None
            return None
        finally:
            timer.cancel()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> "subprocess.Popen[str]":
        threads = str(self._order["threads"])
        variables = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH")))),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "true" if self._order["device"] == "cuda" else "false",
        }
        command = [sys.executable, str(Path(__file__).resolve().with_name("eval_sides.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, env=variables, **pipes)  # type: ignore[call-overload]
        assert self._process is not None and self._process.stdin is not None  # noqa: S101  it is a pipe
        self._process.stdin.write(json.dumps(self._order) + "\n")
        self._process.stdin.flush()
        return self._process

    def _read(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        line = process.stdout.readline()
        if not line.endswith("\n"):
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer


class Kept:
    """The measurements so far, one JSON line each, of one combination of settings."""

    def __init__(self, path: Path, settings: dict[str, str]) -> None:
        self._path = path
        self._settings = settings
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            path.write_text("".join(whole), encoding="utf-8")
        self.runs: list[Run] = [json.loads(line) for line in whole]
        if any(run["settings"] != settings for run in self.runs):
            raise SystemExit(f"{path} was measured with other settings: name another --output")

    def find(self, task: str, side: str) -> list[Run]:
        return [run for run in self.runs if run["task"] == task and run["side"] == side]

    def add(self, run: Run) -> None:
        run["settings"] = self._settings
        self.runs.append(run)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")


def compare(ours: Run, peer: Run) -> dict[str, Any]:
    """The largest relative difference of a log-likelihood, and every item whose likeliest request differs."""
    largest, same, differing = 0.0, 0, []
    pairs = list(zip(ours["log_likelihoods"], peer["log_likelihoods"], strict=True))
    for number, (left, right) in enumerate(pairs):
        largest = max([largest, *(abs(a - b) / max(abs(b), 1e-9) for a, b in zip(left, right, strict=True))])
        if left.index(max(left)) == right.index(max(right)):
            same += 1
        else:
            differing.append({"item": number, "ours": left, "lm-eval": right})
    return {"largest_relative_difference": largest, "same_picks": same / len(pairs), "differing": differing}


def summarise(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Of one task; `runs` by side. Whole-task seconds are those measured, in proportion to the items."""
    ours = runs["ours"][0]
    seconds = {side: statistics.median(run["seconds"] for run in found) for side, found in runs.items()}
    operations = ours["work"]["operations"] / seconds["ours"]
    peak = ours["matmul_operations_per_second"]
    summary = {
        **{name: ours[name] for name in ("items", "items_available", "requests", "requested_tokens", "work")},
        "metrics": {side: found[0]["metrics"] for side, found in runs.items()},
        "seconds": seconds,
        "all_seconds": {side: [run["seconds"] for run in found] for side, found in runs.items()},
        "whole_task_seconds": {
            side: value * ours["items_available"] / ours["items"] for side, value in seconds.items()
        },
        "items_per_second": {side: ours["items"] / value for side, value in seconds.items()},
        "requested_tokens_per_second": {side: ours["requested_tokens"] / value for side, value in seconds.items()},
        "computed_tokens_per_second": ours["work"]["computed_tokens"] / seconds["ours"],
        "operations_per_second": operations,
        "matmul_operations_per_second": peak,
        "model_flops_utilisation": operations / peak if peak else None,
    }
    if "lm-eval" not in runs:
        return summary
    search = statistics.median(run["work"]["search_seconds"] for run in runs["lm-eval"])
    return {
        **summary,
        "search_seconds": search,
        "speedup": seconds["lm-eval"] / seconds["ours"],
        "speedup_without_search": (seconds["lm-eval"] - search) / seconds["ours"],
        **compare(ours, runs["lm-eval"][0]),
    }


def table(tasks: dict[str, dict[str, Any]]) -> str:
    heads = ["task", "items", "seconds ours", "lm-eval", "of it search", "ratio", "without search", "items/s ours"]
    heads += ["lm-eval", "asked tokens/s ours", "lm-eval", "TFLOP/s ours", "MFU", "largest difference", "same picks"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, task in tasks.items():
        both = "speedup" in task
        rates, tokens = task["items_per_second"], task["requested_tokens_per_second"]
        share = task["model_flops_utilisation"]
        cells = [name, str(task["items"]), f"{task['seconds']['ours']:.2f}"]
        cells += [f"{task['seconds']['lm-eval']:.2f}", f"{task['search_seconds']:.2f}"] if both else ["-"] * 2
        cells += [f"{task['speedup']:.2f}", f"{task['speedup_without_search']:.2f}"] if both else ["-"] * 2
        cells += [f"{rates['ours']:.2f}", f"{rates['lm-eval']:.2f}" if both else "-"]
        cells += [f"{tokens['ours']:.0f}", f"{tokens['lm-eval']:.0f}" if both else "-"]
        cells += [f"{task['operations_per_second'] / 1e12:.3g}", "-" if share is None else f"{share:.3f}"]
        cells += [f"{task['largest_relative_difference']:.1e}", f"{task['same_picks']:.4f}"] if both else ["-"] * 2
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_total(tasks)])


def _total(tasks: dict[str, dict[str, Any]]) -> list[str]:
    both = [task for task in tasks.values() if "speedup" in task]
    if not both:
        return []
    ours, peer = (sum(task["seconds"][side] for task in both) for side in SIDES)
    search = sum(task["search_seconds"] for task in both)
    same = sum(task["same_picks"] * task["items"] for task in both) / sum(task["items"] for task in both)
    ratios = f"ratio {peer / ours:.2f}, {(peer - search) / ours:.2f} without its search"
    return [f"All tasks: ours {ours:.1f} s, lm-eval {peer:.1f} s, {ratios}; same picks {same:.4f}"]


def measure(arguments: argparse.Namespace, kept: Kept) -> bool:
    """Measure what is missing; False if time ran out."""
    end = time.monotonic() + arguments.seconds
    order = {
        "checkpoint": str(arguments.checkpoint.resolve()),
        "data": str(Path(arguments.data).resolve()),
        "peer_batch_size": arguments.peer_batch_size,
        **{name: getattr(arguments, name) for name in ("limit", "dtype", "device", "threads", "token_budget")},
        "peer_softmax_dtype": arguments.peer_softmax_dtype,
    }
    sides = {side: Side({**order, "side": side}) for side in arguments.sides}
    try:
        for task in arguments.tasks:
            for repeat in range(arguments.repeats):
                for name, side in sides.items():
                    if len(kept.find(task, name)) > repeat:
                        continue
                    scored = side.score(task, end)
                    if scored is None:
                        return False
                    kept.add({"task": task, "side": name, **side.loaded, **scored, "load_average": os.getloadavg()})
                    print(f"{task}, {name}: {scored['seconds']:.1f} s", file=sys.stderr, flush=True)
            write(arguments, kept)
    finally:
        for side in sides.values():
            side.stop()
    return True


def write(arguments: argparse.Namespace, kept: Kept) -> dict[str, dict[str, Any]]:
    """Summaries of the tasks that every side has scored."""
    tasks = {}
    for name in dict.fromkeys(run["task"] for run in kept.runs):
        runs = {side: found for side in SIDES if (found := kept.find(name, side))}
        if set(arguments.sides) <= set(runs):
            tasks[name] = summarise(runs)
    document = {
        "provenance": provenance(arguments),
        "tasks": tasks,
        "runs": [{name: value for name, value in run.items() if name != "log_likelihoods"} for run in kept.runs],
    }
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return tasks


def provenance(arguments: argparse.Namespace) -> dict[str, Any]:
    from harness.contract import cpu_model, harness_digest

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": cpu_model(),
        "gpu": _gpu_name() if arguments.device == "cuda" else None,
        "harness_digest": harness_digest(),
        "python": sys.version.split()[0],
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "lm-eval")},
        "settings": settings_of(arguments),
    }


def settings_of(arguments: argparse.Namespace) -> dict[str, str]:
    return {name: str(value) for name, value in vars(arguments).items() if name not in _KEPT_OUT}


def _gpu_name() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {"type": lambda text: text.split(",")}
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a published dense checkpoint")
    parser.add_argument("--data", type=Path, default=os.environ.get("LLMCBENCH_DATA"))
    parser.add_argument("--tasks", default=CHOICE_TASKS.split(","), help="names, with commas; also wikitext2", **names)
    parser.add_argument("--sides", default=list(SIDES), help="ours,lm-eval", **names)
    parser.add_argument("--limit", type=int, default=200, help="items of a task, segments of wikitext2; 0: all")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e6, help="stop then; the same command goes on later")
    parser.add_argument("--token-budget", type=int, help="ours; chosen from free memory by default")
    parser.add_argument("--peer-batch-size", default="auto", help="lm-eval's")
    parser.add_argument("--peer-softmax-dtype", help="lm-eval's; its default is the model's")
    parser.add_argument("--output", type=Path, default=Path("eval_vs_lm_eval.json"))
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if arguments.data is None:
        raise SystemExit("name the --data, or set LLMCBENCH_DATA")
    kept = Kept(arguments.output.with_name(arguments.output.name + ".runs.jsonl"), settings_of(arguments))
    complete = measure(arguments, kept)
    tasks = write(arguments, kept)
    print(table(tasks))
    if not complete:
        return 3
    compared = [task for task in tasks.values() if "speedup" in task]
    if arguments.dtype != "float32" or not compared:
        return 0
    close = all(task["largest_relative_difference"] <= LARGEST_DIFFERENCE for task in compared)
    same = sum(task["same_picks"] * task["items"] for task in compared) / sum(task["items"] for task in compared)
    return 0 if close and same >= FEWEST_SAME_PICKS else 1


if __name__ == "__main__":
    sys.exit(main())
