"""Evaluations through a backend: another protocol, the same items and outcomes, within what the backend can hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.contract import Device, Dtype, EvaluateParameters, EvaluateRequest, EvaluateResult, Reason
from harness.contract.items import ChoiceItem, SegmentItem
from harness.errors import BadRequest, Unsupported
from harness.evaluation import evaluate, run
from harness.evaluation.outcomes import read_items
from harness.evaluation.pieces import PieceSize
from tests.support.fake_vllm import FakeVllm
from tests.support.small_checkpoints import Recorder, publish_dataset
from tests.support.zoo import zoo_checkpoint

QUESTIONS = [
    {
        "id": str(number),
        "question": f"Is {number} a number?",
        "choices": {"text": [f"yes {number}", "no", "perhaps it is"], "label": ["A", "B", "C"]},
        "answerKey": "A",
    }
    for number in range(9)
]
TEXT = [{"text": f" = Heading {number} = \n a line of text about the number {number} \n"} for number in range(60)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo") / "llama-gqa"
    zoo_checkpoint("llama-gqa", folder)
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    """Answers at once, with the log-likelihood -token / 100 for each token."""
    answers = FakeVllm(instant=True, log_likelihood=lambda tokens, place: (-tokens[place] / 100, 1))
    return answers.install(monkeypatch)


@pytest.fixture
def perform(checkpoint: Path, tmp_path: Path) -> Callable[..., EvaluateResult]:
    arc = publish_dataset(tmp_path / "arc", "arc_easy", {"test": QUESTIONS})
    text = publish_dataset(tmp_path / "text", "wikitext2", {"test": TEXT})

    def work(recorder: Recorder | None = None, **parameters: Any) -> EvaluateResult:
        asked = EvaluateParameters(**{"task": "arc_easy", "engine": "vllm", **parameters})
        output = tmp_path / "output"
        output.mkdir(exist_ok=True)
        request = EvaluateRequest(
            id="test",
            device=Device(threads=1),
            inputs={"checkpoint": str(checkpoint), "dataset": str(arc if asked.task == "arc_easy" else text)},
            output=str(output),
            parameters=asked,
        )
        return run(request, (recorder or Recorder()).reporter)

    return work


def items(tmp_path: Path, item_type: type[Any] = ChoiceItem) -> tuple[Any, ...]:
    return read_items(tmp_path / "output" / "items.jsonl.zst", item_type)


def test_the_engine_stands_in_the_result_and_in_the_protocol(perform, fake: FakeVllm) -> None:
    result = perform()
    assert (result.engine, result.protocol) == ("vllm", "vllm/choice/arc_easy@lm-eval-0.4.13")
    assert result.dtype is Dtype.BFLOAT16
    assert result.notes[0] == "scored by vLLM from prompt log-probabilities"
    assert fake.stopped == 1
    reference = perform(engine="transformers")
    assert (reference.engine, reference.protocol) == ("transformers", "choice/arc_easy@lm-eval-0.4.13")


def test_items_are_those_of_the_reference_with_the_engines_likelihoods(perform, fake: FakeVllm, tmp_path: Path) -> None:
    perform(engine="transformers")
    reference = items(tmp_path)
    perform()
    deployed = items(tmp_path)
    assert [(one.index, one.document, one.gold) for one in deployed] == [
        (one.index, one.document, one.gold) for one in reference
    ]
    assert all(len(one.log_likelihoods) == 3 for one in deployed)
    asked = [prompt for prompts, _ in fake.calls for prompt in prompts]
    assert len(asked) == 3 * len(QUESTIONS)
    assert deployed[0].log_likelihoods[1] == pytest.approx(-asked[1][-1] / 100), "the answer is one token"


def test_the_engine_is_loaded_for_the_longest_request_and_no_more(perform, fake: FakeVllm) -> None:
    perform(token_budget=64)
    (arguments,) = fake.arguments
    longest = max(len(prompt) for prompts, _ in fake.calls for prompt in prompts)
    assert arguments.max_model_len == longest + 1
    assert arguments.max_num_batched_tokens == 64
    assert arguments.max_num_seqs == max(len(prompts) for prompts, _ in fake.calls)


def test_cost_counts_what_the_engine_reads(perform, fake: FakeVllm) -> None:
    result = perform()
    read = sum(len(prompt) for prompts, _ in fake.calls for prompt in prompts)
    assert (result.cost.computed_tokens, result.cost.asked_tokens) == (read, read - 3 * len(QUESTIONS))


def test_an_interrupted_evaluation_goes_on_with_the_items_that_are_left(
    perform, fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_in_the_third_piece() -> None:
        if len(fake.calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(PieceSize, "suiting", lambda *_, **__: PieceSize(tokens=10**9, items=2))
    fake.generating = stop_in_the_third_piece
    with pytest.raises(KeyboardInterrupt):
        perform()
    fake.generating = lambda: None
    result = perform()
    assert (result.cost.resumed_items, result.cost.scored_items) == (4, len(QUESTIONS) - 4)
    assert result.items == len(QUESTIONS)
    assert fake.stopped == 2


def test_outcomes_of_the_reference_are_not_taken_over(perform, fake: FakeVllm) -> None:
    def stopped(*_: object) -> str:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate, "write_items", stopped)
        perform(engine="transformers")
    assert perform().cost.resumed_items == 0


def test_segments_of_the_full_context_are_two_tokens_shorter(perform, fake: FakeVllm, tmp_path: Path) -> None:
    whole = perform(task="wikitext2-maxctx", engine="transformers", limit=1)
    shorter = perform(task="wikitext2-maxctx", limit=1)
    assert shorter.details.sequence_length == whole.details.sequence_length - 2
    assert shorter.protocol == "vllm/ppl/wikitext2-maxctx"
    assert len(items(tmp_path, SegmentItem)) == 1


def test_a_segment_longer_than_the_engine_takes_is_refused_before_it_loads(perform, fake: FakeVllm) -> None:
    with pytest.raises(Unsupported):
        perform(task="wikitext2-4096")
    assert fake.arguments == []


@pytest.mark.parametrize(
    ("engine", "words"),
    [("vlm", "did you mean 'vllm'"), ("tensorrt-llm", "the engines are: transformers, llama-cpp, vllm")],
)
def test_an_engine_that_cannot_score_is_unsupported(perform, engine: str, words: str) -> None:
    with pytest.raises(Unsupported, match="gives the log-likelihoods") as refusal:
        perform(engine=engine)
    assert refusal.value.reason is Reason.BACKEND
    assert words in f"{refusal.value.message} {refusal.value.hint}"


def test_several_processes_are_refused(perform) -> None:
    with pytest.raises(BadRequest, match="vllm works in one process, and 2 are asked for"):
        perform(processes=2)
