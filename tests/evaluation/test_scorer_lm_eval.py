"""The scorer inside lm-eval: the same answers as lm-eval's own model, for choices and for rolling windows."""

import math
from pathlib import Path
from typing import Any

import pytest

from harness.errors import Unsupported
from harness.models.loading import LoadedModel
from tests.evaluation.scorer_reference import load_small, silent
from tests.support.lm_eval_model import LmEvalModel
from tests.support.small_checkpoints import byte_tokenizer, small_model

ROWS = [
    {"question": "Which one can fly?", "options": ["a cow", "a jay", "an ant-eater"], "label": 1},
    {"question": "What is wet?", "options": ["water", "a stone"], "label": 0},
    {"question": "Who barks?", "options": ["fish", "dogs", "trees", "rain"], "label": 1},
]
TEXTS = ["It rained again. " * 30, "short", "x" * 128, "y" * 129]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder: Path = tmp_path_factory.mktemp("scorer") / "model"
    return load_small(folder, small_model("llama"))


def choice_task() -> Any:
    import datasets
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(
        config={
            "task": "made_up",
            "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(ROWS)},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "{{options}}",
            "doc_to_target": "label",
            "num_fewshot": 0,
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
    )


@pytest.fixture(scope="module")
def reference(loaded: LoadedModel) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=loaded.model, tokenizer=byte_tokenizer(), batch_size=2)


@pytest.mark.slow
def test_lm_eval_evaluates_a_task_with_the_scorer_as_with_its_own_model(loaded: LoadedModel, reference: Any) -> None:
    import lm_eval

    def evaluate(model: Any) -> Any:
        return lm_eval.simple_evaluate(model=model, tasks=[choice_task()], bootstrap_iters=0, log_samples=True)

    ours, theirs = evaluate(LmEvalModel(loaded, report=silent)), evaluate(reference)
    assert ours["results"]["made_up"] == theirs["results"]["made_up"]
    for sample, expected in zip(ours["samples"]["made_up"], theirs["samples"]["made_up"], strict=True):
        for (found, _), (wanted, _) in zip(sample["filtered_resps"], expected["filtered_resps"], strict=True):
            assert found == pytest.approx(wanted, rel=1e-5)


def test_rolling_windows_are_those_of_lm_eval(loaded: LoadedModel, reference: Any) -> None:
    from lm_eval.api.instance import Instance

    def requests() -> list[Instance]:
        return [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(TEXTS)]

    found = LmEvalModel(loaded, report=silent).loglikelihood_rolling(requests())
    expected = reference.loglikelihood_rolling(requests(), disable_tqdm=True)
    assert found == pytest.approx(expected, rel=1e-5)
    assert all(math.isfinite(value) for value in found)


def test_writing_text_is_unsupported(loaded: LoadedModel) -> None:
    with pytest.raises(Unsupported, match="writes no text"):
        LmEvalModel(loaded, report=silent).generate_until([])
