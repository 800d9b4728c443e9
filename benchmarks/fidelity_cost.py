"""What holding a model against dense costs beside its perplexity on the same segments, in seconds of processor time.

python benchmarks/fidelity_cost.py --dense DIR --other DIR --text DIR [--segments 2] [--repeats 3] [--threads 1]

DIR are published artifacts, as a store has them: two checkpoints and the data set `wikitext2`. In one process, with
both models loaded and the segments prepared, the three are done in turn, so that what else the machine does meets all
of them: perplexity by the scorer, the dense model's states written to a folder, the other model held against them.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    import torch

    from harness.contract import Device, Dtype, cpu_model
    from harness.evaluation.data import open_data
    from harness.evaluation.definitions import ModelFacts, prepare
    from harness.evaluation.prepared import TokenRequest
    from harness.evaluation.scorer import Scorer
    from harness.evaluation.tasks import find_task
    from harness.fidelity.divergence import compare
    from harness.fidelity.passes import Passes
    from harness.fidelity.states import StatesWriter
    from harness.models.loading import load_model

    asked = _arguments()
    device = Device(threads=asked.threads)
    dense, other = (load_model(folder, device, Dtype(asked.dtype)) for folder in (asked.dense, asked.other))
    task = find_task(asked.task)
    _, rows = open_data(asked.text, task)
    facts = ModelFacts.of(dense.tokenizer, dense.model.config)
    prepared = prepare(task, rows, facts, limit=asked.segments)
    requests: list[TokenRequest] = [one for index in range(len(prepared)) for one in prepared.requests(index)]
    scorer = Scorer(other, report=lambda text: None)
    ours, theirs = Passes(dense, None), Passes(other, None)
    states: dict[int, torch.Tensor] = {}
    head = ours.forward.head

    def keep() -> None:
        with tempfile.TemporaryDirectory() as folder:
            writer = StatesWriter(Path(folder))
            for read in ours.read(requests):
                states[read.number] = read.states.clone()
                writer.add(read.number, read.states)
            writer.finish(requests, list(range(len(requests))), head)

    def hold() -> None:
        for read in theirs.read(requests):
            targets = torch.tensor(requests[read.number].continuation)
            sides = (states[read.number], head), (read.states, theirs.forward.head)
            compare(*sides, targets, vocabulary=head.weight.shape[0])

    work: dict[str, Callable[[], object]] = {
        "perplexity": lambda: list(scorer.score(requests)),
        "states": keep,
        "fidelity": hold,
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(asked.repeats + 1):
        for name, do in work.items():
            begin = time.process_time()
            do()
            if repeat:  # the first round warms up
                seconds[name].append(time.process_time() - begin)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    document = {
        "machine": f"{cpu_model()}, {asked.threads} thread(s)",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "task": task.name,
        "dtype": asked.dtype,
        "segments": len(prepared),
        "tokens": sum(len(one.continuation) for one in requests),
        "processor_seconds": seconds,
        "over_perplexity": {name: medians[name] / medians["perplexity"] for name in ("states", "fidelity")},
    }
    print(json.dumps(document, indent=1))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dense", "other", "text"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR")
    parser.add_argument("--task", default="wikitext2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--segments", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
