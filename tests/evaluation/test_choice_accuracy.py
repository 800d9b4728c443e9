"""Multiple choice: every figure is compared with a plain loop over whole, unpadded, unbatched sequences."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.contract import EvaluateParameters, EvaluateRequest, EvaluateResult, ProtocolDetails
from harness.contract.items import ChoiceItem
from harness.errors import BadCheckpoint
from harness.evaluation import run
from harness.evaluation.outcomes import read_items
from harness.evaluation.tasks import find_task
from tests.support.small_checkpoints import Recorder, byte_tokenizer, publish_checkpoint, publish_dataset, small_model

QUESTIONS = [
    ("What is wet?", ["water", "a stone", "an old oak"], "A"),
    ("Which one can fly?", ["a cow", "a jay", "an ant-eater", "ice"], "B"),
    ("What is the colour of snow?", ["blue as the sky", "white"], "2"),
    ("Where does one sleep?", ["in bed", "on the road", "in the fire", "at sea"], "D"),
    ("Who barks?", ["dogs", "fish", "trees", "rain"], "C"),
]


def arc_row(number: int, question: str, choices: list[str], answer: str) -> dict[str, Any]:
    labels = ("1234" if answer.isdigit() else "ABCD")[: len(choices)]
    return {
        "id": f"q{number}",
        "question": question,
        "choices": {"text": choices, "label": list(labels)},
        "answerKey": answer,
    }


ARC = [arc_row(number, *question) for number, question in enumerate(QUESTIONS)]
WINOGRANDE = [
    {"sentence": "The cup fell off the desk since _ was round.", "option1": "the cup", "option2": "it", "answer": "1"},
    {"sentence": "Ann paid Eve because _ had worked.", "option1": "Ann", "option2": "Eve", "answer": "2"},
    {"sentence": "Bo saw Al when _ came in.", "option1": "Bo", "option2": "Al", "answer": "1"},
]


def evaluate(
    tmp_path: Path,
    task: str,
    rows: list[dict[str, Any]],
    *,
    model: Any = None,
    recorder: Recorder | None = None,
    **more: Any,
) -> tuple[EvaluateResult, list[dict[str, Any]]]:
    """Evaluate a small Llama, or `model`, and read back the items that were kept."""
    settled = find_task(task)
    number = len(list(tmp_path.iterdir()))
    output = tmp_path / f"output-{number}"
    output.mkdir()
    inputs = {
        "checkpoint": publish_checkpoint(tmp_path / f"model-{number}", model or small_model("llama")),
        "dataset": publish_dataset(tmp_path / f"data-{number}", settled.dataset, {settled.splits[0]: rows}),
    }
    request = EvaluateRequest(
        id="test",
        inputs={name: str(path) for name, path in inputs.items()},
        output=str(output),
        parameters=EvaluateParameters(task=task, **more),
    )
    result = run(request, (recorder or Recorder()).reporter)
    items = read_items(output / result.items_file, ChoiceItem)
    return result, [item.model_dump(mode="json") for item in items]


def plain_log_likelihood(model: Any, context: str, continuation: str) -> float:
    tokenizer = byte_tokenizer()
    before, after = tokenizer.encode(context), tokenizer.encode(continuation)
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0].double()
    likelihoods = torch.log_softmax(logits, dim=-1)
    return sum(float(likelihoods[len(before) + place - 1, token]) for place, token in enumerate(after))


def first_largest(values: list[float]) -> int:
    return max(range(len(values)), key=lambda place: values[place])


@pytest.mark.parametrize(
    ("family", "token_budget"), [("llama", None), *((family, 130) for family in ("llama", "opt", "qwen3"))]
)
def test_arc_scores_equal_a_plain_loop_at_every_budget(tmp_path: Path, family: str, token_budget: int | None) -> None:
    model = small_model(family)
    result, items = evaluate(tmp_path, "arc_easy", ARC, model=model, token_budget=token_budget)
    right, right_per_character = 0, 0
    for item, (question, choices, answer) in zip(items, QUESTIONS, strict=True):
        expected = [plain_log_likelihood(model, f"Question: {question}\nAnswer:", f" {text}") for text in choices]
        assert item["log_likelihoods"] == pytest.approx(expected, abs=1e-3)
        assert item["gold"] == ("1234" if answer.isdigit() else "ABCD").index(answer)
        assert item["picked"] == first_largest(expected)
        assert item["picked_norm"] == first_largest([e / len(c) for e, c in zip(expected, choices, strict=True)])
        right += item["picked"] == item["gold"]
        right_per_character += item["picked_norm"] == item["gold"]
    assert result.metrics["acc"] == right / len(QUESTIONS)
    assert result.metrics["acc_norm"] == right_per_character / len(QUESTIONS)
    assert (result.items, result.items_available, result.excluded) == (5, 5, {})


def test_winogrande_scores_the_rest_of_the_sentence_after_each_option(tmp_path: Path) -> None:
    model = small_model("llama")
    result, items = evaluate(tmp_path, "winogrande", WINOGRANDE, model=model)
    right = 0
    for item, row in zip(items, WINOGRANDE, strict=True):
        before, after = row["sentence"].split("_")
        expected = [plain_log_likelihood(model, before + row[option], after) for option in ("option1", "option2")]
        assert item["log_likelihoods"] == pytest.approx(expected, abs=1e-3)
        right += first_largest(expected) == int(row["answer"]) - 1
    assert result.metrics["acc"] == right / len(WINOGRANDE)
    assert "acc_norm" not in result.metrics


def test_piqa_and_hellaswag_rows_are_understood(tmp_path: Path) -> None:
    piqa = [{"goal": "open a door", "sol1": "turn the handle", "sol2": "eat the handle", "label": 0}]
    hellaswag = [
        {
            "ind": 1, "activity_label": "Rowing", "ctx_a": "A man sits in a boat.", "ctx_b": "he", "ctx": "",
            "endings": ["rows [title] on.", "flies.", "is a boat.", "eats it."], "source_id": "", "split": "val",
            "split_type": "indomain", "label": "0",
        }
    ]  # fmt: skip
    model = small_model("llama")
    _, (answer,) = evaluate(tmp_path, "piqa", piqa, model=model)
    expected = [
        plain_log_likelihood(model, "Question: open a door\nAnswer:", f" {piqa[0][s]}") for s in ("sol1", "sol2")
    ]
    assert answer["log_likelihoods"] == pytest.approx(expected, abs=1e-3)
    _, (ending,) = evaluate(tmp_path, "hellaswag", hellaswag, model=model)
    first = plain_log_likelihood(model, "Rowing: A man sits in a boat. He", " rows. on.")
    assert ending["log_likelihoods"][0] == pytest.approx(first, abs=1e-3)
    assert len(ending["log_likelihoods"]) == 4


def test_scores_agree_with_lm_evals_own_hugging_face_model(tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    from tests.support.lm_eval_reference import lm_eval_task

    model = small_model("llama")
    _, items = evaluate(tmp_path, "arc_challenge", ARC, model=model)
    task = lm_eval_task("arc/arc_challenge.yaml", dict.fromkeys(["validation", "test"], ARC))
    reference = HFLM(pretrained=model, tokenizer=byte_tokenizer(), batch_size=2)
    expected = [value for value, _ in reference.loglikelihood(task.instances, disable_tqdm=True)]
    assert [value for item in items for value in item["log_likelihoods"]] == pytest.approx(expected, abs=1e-3)


def test_a_limit_takes_the_first_items_and_keeps_the_full_count(tmp_path: Path) -> None:
    recorder = Recorder()
    result, items = evaluate(tmp_path, "arc_easy", ARC, limit=2, recorder=recorder)
    _, everything = evaluate(tmp_path, "arc_easy", ARC)
    assert (result.items, result.items_available) == (2, 5)
    assert [item["document"] for item in items] == [item["document"] for item in everything[:2]]
    assert items[1]["log_likelihoods"] == pytest.approx(everything[1]["log_likelihoods"], abs=1e-4)
    last = recorder.events("progress")[-1]
    assert (last["done"], last["total"], last["unit"]) == (2, 2, "items")


def test_the_same_request_gives_the_same_bytes(tmp_path: Path) -> None:
    first = evaluate(tmp_path, "arc_easy", ARC)
    second = evaluate(tmp_path, "arc_easy", ARC)
    assert first[1] == second[1]
    assert first[0].metrics == second[0].metrics


def test_kept_items_quote_no_text(tmp_path: Path) -> None:
    _, items = evaluate(tmp_path, "arc_easy", ARC)
    kept = json.dumps(items)
    assert all(word not in kept for _, choices, _ in QUESTIONS for word in choices if len(word) > 3)


def test_the_standard_error_is_that_of_a_mean(tmp_path: Path) -> None:
    result, items = evaluate(tmp_path, "arc_easy", ARC)
    mean = result.metrics["acc"]
    spread = math.sqrt(sum((item["correct"]["acc"] - mean) ** 2 for item in items) / (len(items) - 1))
    assert result.metrics["acc_stderr"] == pytest.approx(spread / math.sqrt(len(items)))


def test_items_without_a_finite_likelihood_are_excluded_and_counted(tmp_path: Path) -> None:
    model = small_model("llama")
    model.get_input_embeddings().weight.data[byte_tokenizer().encode("k")] = float("nan")
    result, items = evaluate(tmp_path, "arc_easy", ARC, model=model)
    spoilt = ["k" in row["question"] or any("k" in text[:-1] for text in row["choices"]["text"]) for row in ARC]
    assert [item["picked"] is None for item in items] == spoilt
    assert 0 < sum(spoilt) < len(ARC)
    assert result.excluded == {"log_likelihood_not_finite": sum(spoilt)}
    assert result.items == len(ARC) - sum(spoilt)


def test_a_model_that_gives_only_nan_is_an_error_and_no_score(tmp_path: Path) -> None:
    model = small_model("llama")
    model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(BadCheckpoint, match="no item a finite likelihood"):
        evaluate(tmp_path, "arc_easy", ARC, model=model)


def test_a_context_beyond_the_models_loses_its_beginning(tmp_path: Path) -> None:
    model = small_model("llama")
    row = arc_row(0, "x" * 300, ["yes", "no"], "A")
    _, (item,) = evaluate(tmp_path, "arc_easy", [row], model=model)
    kept = f"Question: {'x' * 300}\nAnswer:"[-(128 + 1 - len(" yes")) :]
    assert item["log_likelihoods"][0] == pytest.approx(plain_log_likelihood(model, kept, " yes"), abs=1e-3)


def test_a_choice_beyond_the_models_context_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [arc_row(0, "long?", ["y" * 200, "no"], "A"), *ARC]
    result, items = evaluate(tmp_path, "arc_easy", rows)
    assert (result.items, result.items_available) == (5, 6)
    assert result.excluded == {"choice_longer_than_context": 1}
    assert len(items) == 5


@pytest.mark.parametrize("place", [0, 2])
def test_an_item_with_an_empty_choice_is_left_out_and_counted(tmp_path: Path, place: int) -> None:
    rows = [*ARC[:place], arc_row(9, "Which is empty?", ["", "a stone"], "B"), *ARC[place:]]
    result, items = evaluate(tmp_path, "arc_easy", rows)
    assert result.excluded == {"choice_without_tokens": 1}
    assert (result.items, len(items)) == (5, 5)
    alone, without = evaluate(tmp_path, "arc_easy", ARC)
    assert result.metrics == alone.metrics
    assert [item["document"] for item in items] == [item["document"] for item in without]


def test_the_result_says_how_the_figures_were_taken(tmp_path: Path) -> None:
    result, _ = evaluate(tmp_path, "arc_easy", [arc_row(0, "x" * 300, ["yes", "no"], "A"), *ARC])
    assert result.details == ProtocolDetails(scoring="per-character")
    assert result.truncated_items == 1
