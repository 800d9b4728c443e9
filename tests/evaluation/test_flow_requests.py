"""One evaluation from request to result, around a scorer that is not a model: what is asked, kept, counted and said."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import checkpoint as artifacts
from harness.contract import (
    RESUME_NAME,
    Dtype,
    EvaluateParameters,
    EvaluateRequest,
    EvaluateResult,
    ProtocolDetails,
    Slice,
)
from harness.contract.items import NOT_FINITE, SegmentItem
from harness.errors import BadCheckpoint, Implausible, MissingData, Unsupported
from harness.evaluation import definitions, evaluate, run
from harness.evaluation.engine import EngineFacts, EngineJob, Report, TokenCounts
from harness.evaluation.outcomes import finite_or_none, read_items
from harness.evaluation.pieces import Answered, Piece, PieceSize, answer_piece
from harness.evaluation.prepared import Answer, Summary, TokenRequest
from tests.support.small_checkpoints import Recorder, publish_checkpoint, publish_dataset, small_model

ITEMS = 23


class FixedTask:
    """Item n has one request; its likelihood is for the scorer to say."""

    unit = "segments"
    item_type = SegmentItem
    available = 40
    truncated = (2, 7, 20)
    details = ProtocolDetails(scoring="segments", sequence_length=5)
    notes = ("a note of the task",)

    def __len__(self) -> int:
        return ITEMS

    def requests(self, index: int) -> Sequence[TokenRequest]:
        return [TokenRequest((index,), (1, 2, 3, 4))]

    def judge(self, index: int, answers: Sequence[Answer]) -> SegmentItem:
        (answer,) = answers
        return SegmentItem(index=index, negative_log_likelihood=finite_or_none(-answer.log_likelihood), tokens=4)

    def summarise(self, items: Sequence[SegmentItem]) -> Summary:
        losses = [item.negative_log_likelihood for item in items if item.negative_log_likelihood is not None]
        if not losses:
            raise BadCheckpoint("no item could be scored", hint="look at the checkpoint")
        excluded = {NOT_FINITE: len(items) - len(losses)} if len(losses) < len(items) else {}
        return Summary({"perplexity": sum(losses)}, scored=len(losses), excluded=excluded)


@dataclass
class FixedScorer:
    """Likelihoods by item; fails before item `stop`."""

    likelihood: Callable[[int], float] = lambda index: -float(index)
    stop: int | None = None
    remarks: Sequence[str] = ()
    operations: int = 0
    asked: list[int] = field(default_factory=list)

    def score(self, requests: Sequence[TokenRequest]) -> Iterator[tuple[int, Answer]]:
        for place, request in enumerate(requests):
            (index,) = request.context
            if index == self.stop:
                raise KeyboardInterrupt
            self.asked.append(index)
            yield place, Answer(self.likelihood(index), greedy=False)


class FixedEngine:
    def __init__(self, scorer: FixedScorer, report: Report) -> None:
        self._scorer = scorer
        self._report = report

    def __enter__(self) -> "FixedEngine":
        return self

    def __exit__(self, *_: object) -> None:
        return

    @property
    def tokens(self) -> TokenCounts:
        operations = self._scorer.operations
        counted = TokenCounts(asked=4, computed=2, padding=1, operations=operations)
        return counted if self._scorer.asked else TokenCounts()

    def facts(self) -> EngineFacts:
        return EngineFacts(Dtype.FLOAT32, "by a test", load_seconds=1.5, quantization_note="made coarser by a test")

    def answers(self, pieces: Iterable[Piece]) -> Iterator[Answered]:
        for piece in pieces:
            for remark in self._scorer.remarks:
                self._report(remark)
            yield from answer_piece(self._scorer, piece)


@pytest.fixture
def perform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EvaluateResult]:
    """Evaluate the fixed task with a fixed scorer, in pieces of five items."""
    inputs = {
        "checkpoint": str(publish_checkpoint(tmp_path / "model", small_model("llama"))),
        "dataset": str(publish_dataset(tmp_path / "data", "wikitext2", {"test": [{"text": "some text"}]})),
    }
    monkeypatch.setattr(definitions, "prepare", lambda *_, **__: FixedTask())
    monkeypatch.setattr(PieceSize, "suiting", lambda *_, **__: PieceSize(tokens=10**9, items=5))

    def work(scorer: FixedScorer, recorder: Recorder | None = None, **parameters: Any) -> EvaluateResult:
        def fixed(job: EngineJob, processes: int, report: Report) -> FixedEngine:
            return FixedEngine(scorer, report)

        monkeypatch.setattr(evaluate, "open_engine", fixed)
        output = tmp_path / "output"
        output.mkdir(exist_ok=True)
        asked = EvaluateParameters(**{"task": "wikitext2", **parameters})
        request = EvaluateRequest(id="test", inputs=inputs, output=str(output), parameters=asked)
        return run(request, (recorder or Recorder()).reporter)

    return work


def outcomes(tmp_path: Path) -> tuple[SegmentItem, ...]:
    return read_items(tmp_path / "output" / "items.jsonl.zst", SegmentItem)


def test_a_result_says_what_was_scored_how_and_at_what_cost(perform, tmp_path: Path) -> None:
    result = perform(FixedScorer())
    assert (result.items, result.items_available, result.truncated_items, result.excluded) == (ITEMS, 40, 3, {})
    assert result.details == FixedTask.details
    assert (result.dtype, result.dtype_reason) == (Dtype.FLOAT32, "by a test")
    assert result.notes == ("made coarser by a test", "a note of the task")
    assert result.cost is not None
    assert (result.cost.scored_items, result.cost.resumed_items, result.cost.processes) == (ITEMS, 0, 1)
    assert (result.cost.asked_tokens, result.cost.computed_tokens, result.cost.padding_tokens) == (4, 2, 1)
    assert result.cost.load_seconds == 1.5
    assert result.cost.items_per_second == pytest.approx(ITEMS / result.cost.score_seconds)
    assert result.cost.tokens_per_second == pytest.approx(2 / result.cost.score_seconds)
    assert [item.index for item in outcomes(tmp_path)] == list(range(ITEMS))
    assert result.metrics["perplexity"] == sum(range(ITEMS))


def test_more_operations_than_the_device_can_do_are_no_result(
    perform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.physics._PAUSE_SECONDS", 0.0)
    possible = perform(FixedScorer(operations=1000)).cost
    assert possible is not None
    (bound,) = possible.bounds
    assert bound.implied == possible.model_operations_per_second
    assert 0 < bound.implied < bound.possible
    with pytest.raises(Implausible, match="multiplying while scoring on 1 device"):
        perform(FixedScorer(operations=10**30))


def test_an_interrupted_evaluation_scores_only_what_is_left(perform, tmp_path: Path) -> None:
    perform(FixedScorer())
    whole = (tmp_path / "output" / "items.jsonl.zst").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        perform(FixedScorer(stop=17))
    again, recorder = FixedScorer(), Recorder()
    result = perform(again, recorder)
    assert again.asked == list(range(15, ITEMS)), "three pieces of five items were finished"
    assert (result.cost.resumed_items, result.cost.scored_items) == (15, ITEMS - 15)
    assert (tmp_path / "output" / "items.jsonl.zst").read_bytes() == whole
    assert not (tmp_path / "output" / RESUME_NAME).exists()
    assert "15 of 23 segments were scored by an earlier attempt" in [one["message"] for one in recorder.events("log")]
    progress = recorder.events("progress")
    assert (progress[0]["done"], progress[-1]["done"], progress[-1]["total"]) == (15, ITEMS, ITEMS)


def test_a_slice_scores_its_items_alone_and_a_larger_one_and_all_go_on_from_it(perform, tmp_path: Path) -> None:
    perform(FixedScorer())
    whole = (tmp_path / "output" / "items.jsonl.zst").read_bytes()
    drawn: tuple[int, ...] = ()
    for count in (6, 15):
        larger, scorer = Slice(items=count).numbers(ITEMS), FixedScorer()
        result = perform(scorer, slice=Slice(items=count))
        assert set(larger) > set(drawn)
        assert scorer.asked == sorted(set(larger) - set(drawn))
        assert [item.index for item in outcomes(tmp_path)] == list(larger)
        assert (result.items, result.drawn_from, result.items_available) == (count, ITEMS, 40)
        assert result.truncated_items == len({2, 7, 20} & set(larger))
        assert (result.cost.resumed_items, result.cost.scored_items) == (len(drawn), count - len(drawn))
        drawn = larger
    smaller = FixedScorer()
    assert perform(smaller, slice=Slice(items=4)).items == 4
    assert smaller.asked == [], "a smaller slice is part of what was scored"
    rest = FixedScorer()
    result = perform(rest)
    assert rest.asked == sorted(set(range(ITEMS)) - set(drawn))
    assert (result.items, result.drawn_from, result.cost.resumed_items) == (ITEMS, None, 15)
    assert (tmp_path / "output" / "items.jsonl.zst").read_bytes() == whole
    assert not (tmp_path / "output" / RESUME_NAME).exists()


def test_a_slice_in_another_order_uses_what_it_has_in_common(perform) -> None:
    perform(FixedScorer(), slice=Slice(items=10))
    scorer = FixedScorer()
    perform(scorer, slice=Slice(items=10, seed=1))
    first, other = (set(Slice(items=10, seed=seed).numbers(ITEMS)) for seed in (0, 1))
    assert scorer.asked == sorted(other - first)


def test_a_slice_says_of_its_own_items_what_has_no_outcome(perform) -> None:
    drawn = Slice(items=8).numbers(ITEMS)
    lost = {drawn[2], next(number for number in range(ITEMS) if number not in drawn)}
    result = perform(FixedScorer(lambda index: math.nan if index in lost else -1.0), slice=Slice(items=8))
    assert (result.items, result.excluded) == (7, {NOT_FINITE: 1})


def test_what_another_request_left_is_not_used(perform) -> None:
    with pytest.raises(KeyboardInterrupt):
        perform(FixedScorer(stop=17))
    other = FixedScorer()
    assert perform(other, dtype=Dtype.BFLOAT16).cost.resumed_items == 0
    assert other.asked == list(range(ITEMS))


def test_the_number_of_processes_may_change_between_attempts(perform) -> None:
    with pytest.raises(KeyboardInterrupt):
        perform(FixedScorer(stop=17))
    assert perform(FixedScorer(), processes=2).cost.resumed_items == 15


def test_an_attempt_that_was_stopped_after_its_last_item_is_not_scored_again(perform, tmp_path: Path) -> None:
    def stopped(*_: object) -> str:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate, "write_items", stopped)
        perform(FixedScorer())
    scorer = FixedScorer()
    result = perform(scorer)
    assert scorer.asked == []
    assert (result.items, result.cost.resumed_items, result.cost.items_per_second) == (ITEMS, ITEMS, None)
    assert len(outcomes(tmp_path)) == ITEMS


def test_items_without_a_finite_likelihood_are_excluded_and_counted(perform, tmp_path: Path) -> None:
    result = perform(FixedScorer(lambda index: float("nan") if index % 4 == 0 else -1.0))
    assert result.excluded == {NOT_FINITE: 6}
    assert result.items == ITEMS - 6
    assert [item.negative_log_likelihood is None for item in outcomes(tmp_path)[:5]] == [True, *[False] * 3, True]


def test_a_checkpoint_that_scores_nothing_is_an_error_and_leaves_no_items_file(perform, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="no item could be scored"):
        perform(FixedScorer(lambda index: float("-inf")))
    assert not (tmp_path / "output" / "items.jsonl.zst").exists()


def test_what_the_scorer_remarks_is_logged_and_noted_once(perform) -> None:
    recorder = Recorder()
    result = perform(FixedScorer(remarks=["out of memory: the token budget is now 64"]), recorder)
    assert result.notes[-1] == "out of memory: the token budget is now 64"
    assert len(result.notes) == 3
    messages = [one["message"] for one in recorder.events("log")]
    assert messages == ["out of memory: the token budget is now 64"]


def test_a_data_file_that_was_altered_is_refused_before_the_model_is_loaded(perform, tmp_path: Path) -> None:
    path = tmp_path / "data" / "test.jsonl.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(bytes(content))
    scorer = FixedScorer()
    with pytest.raises(BadCheckpoint, match=r"test\.jsonl\.gz differs from its descriptor's sha256"):
        perform(scorer)
    assert scorer.asked == []


def test_a_missing_split_is_named_with_those_that_are_there(perform, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    descriptor = json.loads((folder / artifacts.DESCRIPTOR_NAME).read_text("utf-8"))
    descriptor["rows"] = {"train": 1}
    (folder / artifacts.DESCRIPTOR_NAME).write_text(json.dumps(descriptor), encoding="utf-8")
    with pytest.raises(
        MissingData, match="wikitext2 from made by a test has no rows of the split 'test'; it has: train"
    ):
        perform(FixedScorer())


def test_an_architecture_that_nobody_knows_is_unsupported(perform, tmp_path: Path) -> None:
    path = tmp_path / "model" / "config.json"
    text = path.read_text("utf-8")
    path.write_text(text.replace('"model_type": "llama"', '"model_type": "lamma"'), encoding="utf-8")
    with pytest.raises(Unsupported, match="model_type 'lamma' is no causal language model"):
        perform(FixedScorer())
