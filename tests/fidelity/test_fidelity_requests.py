"""A dense model's states kept once, and checkpoints held against them: from request to result."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.checkpoint import open_states
from harness.contract import (
    Device,
    Dtype,
    EvaluateRequest,
    FidelityRequest,
    FidelityResult,
    Quantization,
    StatesRequest,
    StatesResult,
)
from harness.contract.divergence import divergence_metrics
from harness.contract.items import FidelityItem
from harness.errors import BadCheckpoint, BadRequest, Unsupported
from harness.evaluation import run as evaluate
from harness.evaluation.deployed import Distributions, Likeliest, Scoring, ScoringBackend
from harness.evaluation.engine import EngineFacts
from harness.evaluation.outcomes import read_items
from harness.evaluation.prepared import Answer, TokenRequest
from harness.fidelity import comparing, keeping, others
from harness.fidelity.passes import cut_batches
from harness.models.loading import load_model
from tests.support.small_checkpoints import Recorder, publish_checkpoint, publish_dataset, small_model
from tests.support.stored_zoo import simulate
from tests.support.zoo import zoo_checkpoint

TASK = "wikitext2-maxctx"
TEXT = [
    {"text": f" On day {day} it rained , and the {'small ' * (day % 3)}river rose by {day} feet .\n"}
    for day in range(90)
]
DEVICE = Device(threads=1)


class Bench:
    """Requests with inputs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = publish_dataset(folder / "text", "wikitext2", {"test": TEXT})
        self._answers = 0

    def keep(self, checkpoint: Path, **parameters: Any) -> tuple[StatesResult, Path]:
        output = self._output()
        request = StatesRequest(
            id="test",
            device=DEVICE,
            inputs={"checkpoint": str(checkpoint), "dataset": str(self.text)},
            output=str(output),
            parameters={"task": TASK, **parameters},
        )
        return keeping.run(request, Recorder().reporter), output / "artifact"

    def compare(
        self, checkpoint: Path, states: Path, **parameters: Any
    ) -> tuple[FidelityResult, tuple[FidelityItem, ...]]:
        output = self._output()
        request = FidelityRequest(
            id="test",
            device=DEVICE,
            inputs={"checkpoint": str(checkpoint), "states": str(states)},
            output=str(output),
            parameters={"task": TASK, **parameters},
        )
        result = comparing.run(request, Recorder().reporter)
        return result, read_items(output / result.items_file, FidelityItem)

    def perplexity_nats(self, checkpoint: Path, limit: int) -> float:
        request = EvaluateRequest(
            id="test",
            device=DEVICE,
            inputs={"checkpoint": str(checkpoint), "dataset": str(self.text)},
            output=str(self._output()),
            parameters={"task": TASK, "limit": limit},
        )
        return evaluate(request, Recorder().reporter).metrics["nats_per_token"]

    def _output(self) -> Path:
        self._answers += 1
        output = self.folder / f"output-{self._answers}"
        output.mkdir()
        return output


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("fidelity"))


@pytest.fixture(scope="module")
def dense(bench: Bench) -> Path:
    zoo_checkpoint("llama-gqa-small", bench.folder / "dense")
    return bench.folder / "dense"


@pytest.fixture(scope="module")
def kept(bench: Bench, dense: Path) -> tuple[StatesResult, Path]:
    return bench.keep(dense, limit=3)


@pytest.fixture(scope="module")
def of_bytes(bench: Bench) -> Path:
    """The states of a model whose tokens are bytes."""
    return bench.keep(publish_checkpoint(bench.folder / "bytes", small_model("llama")), limit=1)[1]


@pytest.fixture(scope="module")
def rounded(bench: Bench, dense: Path) -> Callable[[int], Path]:
    """The dense model with weights of so many bits."""

    def make(bits: int) -> Path:
        folder = bench.folder / f"rounded-{bits}"
        how = Quantization(weight_bits=bits, activation_bits=16, group_size=32, symmetric=True)
        return folder if folder.exists() else simulate(dense, folder, how)

    return make


def plain_logits(folder: Path, requests: list[TokenRequest]) -> list[torch.Tensor]:
    model: Any = load_model(folder, DEVICE).model
    with torch.no_grad():
        return [
            model(torch.tensor([one.context + one.continuation[:-1]])).logits[0, len(one.context) - 1 :].double()
            for one in requests
        ]


def test_states_say_what_they_hold(kept: tuple[StatesResult, Path]) -> None:
    result, folder = kept
    found = open_states(folder, verify=True)
    assert found == result.artifact
    assert (found.task, found.protocol, found.items, found.requests) == (TASK, f"ppl/{TASK}", 3, 3)
    assert found.tokens == 3 * 511
    assert found.items_available > 3
    assert result.dtype.value == found.dtype.value == "float32"
    sizes = {name: entry.size_bytes for name, entry in found.files.items()}
    assert sizes["head.safetensors"] < 2 * found.vocabulary_size * found.hidden_size + 1000, "stored in 16 bits"


def test_a_model_is_at_no_distance_from_itself(bench: Bench, dense: Path, kept: tuple[StatesResult, Path]) -> None:
    result, items = bench.compare(dense, kept[1])
    assert {one for item in items for one in item.divergences or ()} == {0.0}
    assert (result.metrics["kl_mean"], result.metrics["kl_max"]) == (0.0, 0.0)
    assert (result.metrics["same_top"], result.metrics["right_probability_change"]) == (1.0, 0.0)


def test_divergences_are_those_of_plain_logits_in_double_precision(
    bench: Bench, dense: Path, kept: tuple[StatesResult, Path], rounded: Callable[[int], Path]
) -> None:
    from harness.fidelity.states import KeptStates

    result, items = bench.compare(rounded(4), kept[1])
    requests = KeptStates(kept[1], None).requests
    sides = zip(plain_logits(dense, requests), plain_logits(rounded(4), requests), strict=True)
    for item, request, (ours, theirs) in zip(items, requests, sides, strict=True):
        log_p, log_q = (torch.log_softmax(one, dim=-1) for one in (ours, theirs))
        exact = (log_p.exp() * (log_p - log_q)).sum(-1)
        found = torch.tensor(item.divergences, dtype=torch.float64)
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-8)
        assert item.same_top == int((log_p.argmax(-1) == log_q.argmax(-1)).sum())
        right = torch.tensor(request.continuation)[:, None]
        p, q = (one.exp().gather(-1, right) for one in (log_p, log_q))
        assert item.right_probability == pytest.approx(float(q.sum()), rel=1e-5)
        assert item.squared_change == pytest.approx(float((q - p).square().sum()), rel=1e-4)
    assert result.metrics == divergence_metrics(items)
    assert (result.items, result.tokens) == (3, 3 * 511)


@dataclass(frozen=True)
class PlainScorer:
    """A backend that gives what transformers computes, some rows at a time: logits, or the `likeliest` tokens."""

    folder: Path
    likeliest: int | None
    facts = EngineFacts(Dtype.FLOAT32, "test", 0.5, None, notes=("read plainly",))

    def score(self, requests: Sequence[TokenRequest]) -> Iterator[tuple[int, Answer]]:
        raise NotImplementedError

    def distributions(self, requests: Sequence[TokenRequest]) -> Iterator[Distributions]:
        for number, logits in enumerate(plain_logits(self.folder, list(requests))):
            right = torch.tensor(requests[number].continuation)
            for first in range(0, len(logits), 200):
                rows = logits[first : first + 200].float()
                yield Distributions(number, first, self._known(rows, right[first : first + 200]))

    def _known(self, logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor | Likeliest:
        if self.likeliest is None:
            return logits
        log_q = torch.log_softmax(logits.double(), -1)
        likeliest = log_q.topk(self.likeliest + 1).indices
        # The least likely of them makes room for the right token, unless that is one of the others.
        likeliest[:, -1] = torch.where((likeliest == right[:, None]).any(-1), likeliest[:, -1], right)
        return Likeliest(likeliest, log_q.gather(-1, likeliest))


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    def deploy(likeliest: int | None, lost_positions: int = 0) -> None:
        @contextmanager
        def opened(checkpoint: Path, *_: object, **__: object) -> Iterator[PlainScorer]:
            yield PlainScorer(checkpoint, likeliest)

        backend = ScoringBackend("plain", Scoring(opened, lost_positions, likeliest))
        monkeypatch.setattr(others, "find_scoring_backend", lambda name: backend if name == "plain" else None)

    return deploy


def test_a_backend_that_gives_all_logits_is_held_against_dense_whole(
    bench: Bench,
    kept: tuple[StatesResult, Path],
    rounded: Callable[[int], Path],
    deployed: Callable[[int | None], None],
) -> None:
    deployed(None)
    result, items = bench.compare(rounded(4), kept[1], engine="plain")
    assert (result.engine, result.protocol) == ("plain", f"plain/kl/ppl/{TASK}")
    assert (result.load_seconds, result.notes) == (0.5, ("read plainly",))
    reference, theirs = bench.compare(rounded(4), kept[1])
    assert result.metrics == pytest.approx(reference.metrics, rel=1e-4)
    for ours, one in zip(items, theirs, strict=True):
        assert ours.divergences == pytest.approx(one.divergences, rel=1e-2, abs=1e-6)


def test_a_backend_that_gives_the_likeliest_tokens_gives_a_lower_bound(
    bench: Bench,
    kept: tuple[StatesResult, Path],
    rounded: Callable[[int], Path],
    deployed: Callable[[int | None], None],
) -> None:
    deployed(20)
    result, items = bench.compare(rounded(4), kept[1], engine="plain")
    assert result.protocol == f"plain/kl-top20/ppl/{TASK}"
    reference, theirs = bench.compare(rounded(4), kept[1])
    for ours, one in zip(items, theirs, strict=True):
        assert all(a <= b + 1e-6 for a, b in zip(ours.divergences or (), one.divergences or (), strict=True))
    assert 0.5 * reference.metrics["kl_mean"] < result.metrics["kl_mean"] < reference.metrics["kl_mean"]
    for name in ("same_top", "right_probability_change", "nats_per_token"):
        assert result.metrics[name] == pytest.approx(reference.metrics[name], rel=1e-4)


def test_a_backend_that_loses_positions_of_a_full_context_is_refused(
    bench: Bench, kept: tuple[StatesResult, Path], rounded: Callable[[int], Path], deployed: Callable[..., None]
) -> None:
    deployed(None, lost_positions=2)
    with pytest.raises(Unsupported, match="a sequence has 512 tokens, and plain takes 511 of this model's"):
        bench.compare(rounded(4), kept[1], engine="plain")


def test_fewer_bits_are_farther_away(
    bench: Bench, kept: tuple[StatesResult, Path], rounded: Callable[[int], Path]
) -> None:
    found = [bench.compare(rounded(bits), kept[1])[0].metrics for bits in (8, 4, 3)]
    for name in ("kl_mean", "kl_median", "kl_p99", "right_probability_change_rms"):
        assert 0 < found[0][name] < found[1][name] < found[2][name]
    assert found[0]["same_top"] > found[1]["same_top"] > found[2]["same_top"]


def test_the_right_tokens_likelihoods_are_those_of_perplexity(
    bench: Bench, dense: Path, kept: tuple[StatesResult, Path], rounded: Callable[[int], Path]
) -> None:
    metrics = bench.compare(rounded(4), kept[1])[0].metrics
    assert metrics["nats_per_token"] == pytest.approx(bench.perplexity_nats(rounded(4), 3), rel=1e-6)
    assert metrics["dense_nats_per_token"] == pytest.approx(bench.perplexity_nats(dense, 3), rel=1e-6)


def test_a_limit_takes_the_first_items(
    bench: Bench, kept: tuple[StatesResult, Path], rounded: Callable[[int], Path]
) -> None:
    whole, few = bench.compare(rounded(4), kept[1])[1], bench.compare(rounded(4), kept[1], limit=2)[1]
    assert few == whole[:2]


def test_passes_of_any_size_see_the_same(bench: Bench, dense: Path, rounded: Callable[[int], Path]) -> None:
    found = [bench.compare(rounded(3), bench.keep(dense, limit=3, token_budget=size)[1])[0] for size in (1, 2000)]
    assert found[0].metrics["kl_mean"] == pytest.approx(found[1].metrics["kl_mean"], rel=1e-4)


def test_another_task_is_refused(bench: Bench, dense: Path, kept: tuple[StatesResult, Path]) -> None:
    with pytest.raises(BadRequest, match="the states are those of 'wikitext2-maxctx', and 'wikitext2' is asked for"):
        bench.compare(dense, kept[1], task="wikitext2")
    with pytest.raises(Unsupported, match="piqa is no text"):
        bench.keep(dense, task="piqa")


def test_a_model_of_another_vocabulary_is_refused(bench: Bench, dense: Path, of_bytes: Path) -> None:
    with pytest.raises(Unsupported, match="tells 1024 tokens apart, and the dense one 264"):
        bench.compare(dense, of_bytes)


def test_a_checkpoint_is_no_states(bench: Bench, dense: Path) -> None:
    with pytest.raises(BadCheckpoint, match="is a checkpoint, not a model's states"):
        bench.compare(dense, dense)


def test_a_model_that_gives_no_numbers_has_no_distance(bench: Bench, of_bytes: Path) -> None:
    model: Any = small_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(BadCheckpoint, match="no finite distribution"):
        bench.compare(publish_checkpoint(bench.folder / "broken", model), of_bytes)


def test_batches_hold_each_sequence_once_in_order() -> None:
    requests = [TokenRequest((0,), tuple(range(length))) for length in (3, 3, 5, 1, 9, 2)]
    for budget in (1, 6, 10, 100):
        batches = list(cut_batches(requests, budget))
        assert [number for batch in batches for number in batch] == list(range(6))
        for batch in batches:
            longest = max(len(requests[number].continuation) for number in batch)
            assert len(batch) == 1 or len(batch) * longest <= budget
