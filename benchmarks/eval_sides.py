"""One side of `eval_vs_lm_eval.py`: a process that holds a model and scores the tasks it is told to, one after another.

Reads an order as a line of JSON, then names of tasks; writes a line of JSON for each. Both sides are handed the same
token requests, so neither tokenises.
"""

import json
import math
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

_WARM_UP = 2
_MATMUL_SIZE = 8192


class Ours:
    """This project's scorer."""

    def __init__(self, order: dict[str, Any]) -> None:
        from harness.contract import Device, DeviceKind, Dtype
        from harness.evaluation.scorer import Scorer
        from harness.models.loading import load_model

        self.remarks: list[str] = []
        device = Device(kind=DeviceKind(order["device"]), threads=order["threads"])
        loaded = load_model(Path(order["checkpoint"]), device, Dtype(order["dtype"]))
        self._scorer = Scorer(loaded, token_budget=order["token_budget"], report=self.remarks.append)

    def score(self, requests: Sequence[Any]) -> list[float]:
        return [answer.log_likelihood for _, answer in sorted(self._scorer.score(requests), key=lambda one: one[0])]

    def warm_up(self, requests: Sequence[Any]) -> None:
        self.score(requests)

    def work(self) -> dict[str, float]:
        """What was done so far; `operations` as `Scorer.operations` counts them."""
        work = self._scorer.work
        return {
            "computed_tokens": work.computed_tokens,
            "padding_tokens": work.padding_tokens,
            "read_positions": work.read_positions,
            "operations": self._scorer.operations or 0,
        }


class LmEval:
    """lm-eval's own Hugging Face model. `search_seconds` is what it spends on finding a batch size, each time anew."""

    def __init__(self, order: dict[str, Any]) -> None:
        from lm_eval.models.huggingface import HFLM

        size = order["peer_batch_size"]
        self._search_seconds = 0.0
        self._model = HFLM(
            pretrained=order["checkpoint"],
            dtype=order["dtype"],
            softmax_dtype=order["peer_softmax_dtype"],
            device="cuda:0" if order["device"] == "cuda" else "cpu",
            batch_size=int(size) if size.isdigit() else size,
        )
        self._search = self._model._detect_batch_size
        self._model._detect_batch_size = self._timed_search
        self.remarks = [f"batch_size {size}, softmax_dtype {order['peer_softmax_dtype']}"]

    def score(self, requests: Sequence[Any]) -> list[float]:
        return self._answer(requests)

    def warm_up(self, requests: Sequence[Any]) -> None:
        """In a batch of known size, so that none is searched."""
        self._answer(requests, override_bs=len(requests))

    def _answer(self, requests: Sequence[Any], **named: Any) -> list[float]:
        encoded = [(("", ""), list(request.context), list(request.continuation)) for request in requests]
        return [float(value) for value, _ in self._model._loglikelihood_tokens(encoded, disable_tqdm=True, **named)]

    def work(self) -> dict[str, float]:
        return {"search_seconds": self._search_seconds}

    def _timed_search(self, *arguments: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        size = self._search(*arguments, **named)
        self._search_seconds += time.perf_counter() - begin
        self.remarks.append(f"its search chose batches of {size}")
        return size


def prepared_task(name: str, facts: Any, order: dict[str, Any]) -> Any:
    """The first items of the task, tokenised; see `harness.evaluation.prepared.PreparedTask`."""
    from harness.contract import ImageDescription
    from harness.evaluation.definitions import prepare
    from harness.evaluation.tasks import find_task
    from harness.fetch.rows import read_rows_from

    task = find_task(name)
    image = ImageDescription.model_validate(tomllib.loads((PROJECT / "images/fetch/image.toml").read_text("utf-8")))
    places = next(description.splits for description in image.datasets if description.name == task.dataset)
    rows = {}
    for split in task.splits:
        with (Path(order["data"]) / places[split].local).open("rb") as file:
            rows[split] = read_rows_from(file, places[split].local)
    return prepare(task, rows, facts, limit=order["limit"] or None)


def timed(model: Any, prepared: Any, items: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Score the items once. What they come to is judged as this project does, whichever side scored them."""
    from harness.evaluation.prepared import Answer

    requests = [request for item in items for request in item]
    work = model.work()
    begin, processor_begin = time.perf_counter(), time.process_time()
    values = model.score(requests)
    seconds, processor_seconds = time.perf_counter() - begin, time.process_time() - processor_begin
    own = iter(values)
    found = [[next(own) for _ in item] for item in items]
    judged = [prepared.judge(number, [Answer(one, greedy=False) for one in item]) for number, item in enumerate(found)]
    return {
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "items": len(items),
        "items_available": prepared.available,
        "requests": len(requests),
        "requested_tokens": sum(len(request.context) + len(request.continuation) - 1 for request in requests),
        "work": {name: count - work[name] for name, count in model.work().items()},
        "metrics": prepared.summarise(judged).metrics,
        "log_likelihoods": found,
    }


def matmul_peak() -> float:
    """Operations a second of a large bfloat16 matrix product on the GPU: the best of ten."""
    import torch

    left, right = (torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = math.inf
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.matmul(left, right)
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1000)
    return 2 * _MATMUL_SIZE**3 / best


def serve(order: dict[str, Any], say: Any) -> None:
    """Load the model, then score each task that a line of stdin names."""
    begin = time.perf_counter()
    import torch

    from harness.evaluation.definitions import ModelFacts
    from harness.models.loading import load_config, load_tokenizer

    torch.set_num_threads(order["threads"])
    torch.set_float32_matmul_precision("highest")
    peak = matmul_peak() if order["device"] == "cuda" and order["side"] == "ours" else None
    torch.cuda.empty_cache()
    model = Ours(order) if order["side"] == "ours" else LmEval(order)
    folder = Path(order["checkpoint"])
    facts = ModelFacts.of(load_tokenizer(folder), load_config(folder))
    say({"load_seconds": time.perf_counter() - begin, "matmul_operations_per_second": peak})
    for line in sys.stdin:
        prepared = prepared_task(line.strip(), facts, order)
        items = [list(prepared.requests(number)) for number in range(len(prepared))]
        model.warm_up([request for item in items[:_WARM_UP] for request in item])
        told = len(model.remarks)
        torch.cuda.empty_cache()
        scored = timed(model, prepared, items)
        say({**scored, "remarks": [*model.remarks[:1], *model.remarks[max(1, told) :]]})


def main() -> None:
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout

    def say(message: dict[str, Any]) -> None:
        output.write(json.dumps(message) + "\n")
        output.flush()

    serve(json.loads(sys.stdin.readline()), say)


if __name__ == "__main__":
    main()
