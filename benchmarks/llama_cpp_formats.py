"""llama.cpp on checkpoints of one model in several formats, in one process: speed in rounds, and likelihoods of a text.

For a machine where a process for each measurement, as `manifests/llama-cpp.yaml` has it, would mostly load libraries.
All checkpoints are loaded once. In each round every one generates once, in an order drawn anew, between two turns of
dense; a ratio is to the mean of these two. Prints one JSON document, with the machine's CPU pressure in each round.

    python -m benchmarks.llama_cpp_formats --text shard.jsonl.gz dense=FOLDER q4_0=FOLDER …
"""

import argparse
import gzip
import json
import math
import random
import statistics
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from harness.backends.llama_cpp.loading import Prepared, load, prepare
from harness.backends.llama_cpp.session import Session
from harness.contract import Device, Dtype, cpu_model
from harness.models.loading import load_model, load_tokenizer

_T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 11: 2.201, 14: 2.145}
"""Two-sided 95 % points of Student's t, by degrees of freedom."""


def main() -> None:
    """Measure what the command line names."""
    asked = _arguments()
    device = Device(threads=asked.threads)
    folders = {name: Path(folder) for name, _, folder in (one.partition("=") for one in asked.checkpoints)}
    with ExitStack() as opened:
        work = Path(opened.enter_context(TemporaryDirectory(dir=asked.work)))
        sessions: dict[str, tuple[Prepared, Session]] = {}
        for name, folder in folders.items():
            prepared = opened.enter_context(prepare(folder, device, None, context_tokens=asked.context, work=work))
            loaded = opened.enter_context(
                load(prepared, device, sequences=1, kv_tokens=asked.context, step_tokens=asked.context)
            )
            sessions[name] = prepared, loaded.session
        document: dict[str, Any] = {
            "cpu": cpu_model(),
            "threads": asked.threads,
            "sizes": {name: _size(folders[name], *one) for name, one in sessions.items()},
            "speed": _rounds({name: one for name, (_, one) in sessions.items()}, asked),
        }
        if asked.text:
            document["likelihoods"] = _likelihoods(folders, sessions, asked, device)
    print(json.dumps(document, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", help="name=folder; the first is dense")
    parser.add_argument("--text", type=Path, help="rows of a data set, `text` in each")
    parser.add_argument("--segments", type=int, default=4)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="where the GGUF files lie meanwhile")
    return parser.parse_args()


def _size(folder: Path, prepared: Prepared, session: Session) -> dict[str, Any]:
    return {
        "disk_bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "gguf_bytes": prepared.file.stat().st_size,
        "weight_bytes": session.weight_bytes,
        "types": dict(prepared.written.types),
        "changes": dict(prepared.written.changes),
    }


def _rounds(sessions: dict[str, Session], asked: argparse.Namespace) -> dict[str, Any]:
    """Tokens/s of each variant by round, and the interval of its ratio to dense."""
    chance = random.Random(0)  # noqa: S311  an order to measure in
    dense, *others = sessions
    prompt = [[chance.randrange(1000, 40000) for _ in range(asked.prompt)]]
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sessions}
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in others}
    pressure = []
    for _ in range(asked.rounds):
        order = [dense, *chance.sample(others, len(others)), dense]
        found = [(name, _speeds(sessions[name].generate(prompt, asked.generate), asked)) for name in order]
        pressure.append(Path("/proc/pressure/cpu").read_text(encoding="ascii").split()[1])
        middle = [statistics.mean(pair) for pair in zip(found[0][1], found[-1][1], strict=True)]
        for name, speeds in found:
            measured[name].append(speeds)
            if name != dense:
                ratios[name].append((speeds[0] / middle[0], speeds[1] / middle[1]))
    kinds = ("prefill", "decode")
    return {
        "cpu_pressure": pressure,
        "tokens_per_second": {
            name: {kind: statistics.median(one[at] for one in rows) for at, kind in enumerate(kinds)}
            for name, rows in measured.items()
        },
        "ratio_to_dense": {
            name: {kind: _interval([one[at] for one in rows]) for at, kind in enumerate(kinds)}
            for name, rows in ratios.items()
        },
        "samples": measured,
    }


def _speeds(decoded: Any, asked: argparse.Namespace) -> tuple[float, float]:
    return asked.prompt / decoded.prefill_seconds, len(decoded.step_seconds) / sum(decoded.step_seconds)


def _interval(ratios: list[float]) -> dict[str, float]:
    """Geometric mean and 95 % interval, by t on the logarithms."""
    logs = [math.log(one) for one in ratios]
    half = _T95[len(logs) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
    mean = statistics.mean(logs)
    return {"mean": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def _likelihoods(
    folders: dict[str, Path], sessions: dict[str, tuple[Prepared, Session]], asked: argparse.Namespace, device: Device
) -> dict[str, Any]:
    """Perplexity of the first segments by llama.cpp and by the reference in float32, and how far a token is apart."""
    with gzip.open(asked.text, "rt", encoding="utf-8") as file:
        text = "\n\n".join(json.loads(line)["text"] for _, line in zip(range(2000), file, strict=False))
    tokens = load_tokenizer(next(iter(folders.values())))(text)["input_ids"]
    segments = [tokens[at * asked.context :][: asked.context] for at in range(asked.segments)]
    found = {}
    for name, (_, session) in sessions.items():
        own = torch.cat([_of_llama_cpp(session, one) for one in segments])
        model: Any = load_model(folders[name], device, Dtype.FLOAT32).model
        theirs = torch.cat([_of_reference(model, one) for one in segments])
        del model
        found[name] = {
            "tokens": len(own),
            "perplexity": {"llama-cpp": float((-own.mean()).exp()), "reference": float((-theirs.mean()).exp())},
            "mean_absolute_difference_nats": float((own - theirs).abs().mean()),
            "mean_difference_nats": float((own - theirs).mean()),
            "standard_error_nats": float((own - theirs).std() / len(own) ** 0.5),
        }
    return found


def _of_llama_cpp(session: Session, segment: list[int]) -> torch.Tensor:
    """float64 [tokens - 1]: the log-likelihood of each token but the first, in nats."""
    parts = [torch.from_numpy(one) for *_, one in session.last_logits([segment[:-1]], [len(segment) - 1])]
    return _taken(torch.cat(parts), segment)


def _of_reference(model: Any, segment: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return _taken(model(torch.tensor([segment[:-1]])).logits[0], segment)


def _taken(logits: torch.Tensor, segment: list[int]) -> torch.Tensor:
    scores = torch.log_softmax(logits.double(), dim=-1)
    return scores.gather(1, torch.tensor(segment[1:])[:, None])[:, 0]


if __name__ == "__main__":
    main()
