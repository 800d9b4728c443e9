"""Rows of every data set that is evaluated: made ones, and the first real ones where there is a local copy."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]

_LETTERS = "ABCD"


def made_rows(dataset: str, split: str) -> list[Row]:
    """A few rows with the fields of the hub's data set, of different lengths and with every label."""
    return _MADE[dataset](split)


def real_rows(dataset: str, split: str, count: int) -> list[Row]:
    """The first rows of the local copy; without one the test is skipped."""
    folder = os.environ.get("LLMCBENCH_DATA")
    if not folder:
        pytest.skip("LLMCBENCH_DATA names no folder with the data sets")
    path = Path(folder) / dataset / f"{split}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the local data sets")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(count), file, strict=False)]


def _arc(_: str) -> list[Row]:
    questions = [
        ("What is wet?", ["water", "a stone", "an old oak"], "A"),
        ("Which can fly? ", ["a cow", "a jay", "an ant-eater", "ice"], "B"),
        ("What is the colour of snow?", ["blue as the sky", "white"], "2"),
    ]
    return [
        {
            "id": f"q{number}",
            "question": question,
            "choices": {"text": texts, "label": list(("1234" if key.isdigit() else _LETTERS)[: len(texts)])},
            "answerKey": key,
        }
        for number, (question, texts, key) in enumerate(questions)
    ]


def _hellaswag(_: str) -> list[Row]:
    return [
        {
            "ind": number, "activity_label": "Rowing", "ctx_a": "A man sits in a boat.", "ctx_b": "he", "ctx": "",
            "endings": ["rows [title] on.", f"flies {number}.", "is a boat.", "eats  it."], "source_id": "",
            "split": "val", "split_type": "indomain", "label": str(number),
        }
        for number in range(4)
    ]  # fmt: skip


def _piqa(_: str) -> list[Row]:
    return [
        {"goal": "open a door", "sol1": "turn the handle", "sol2": "eat the handle", "label": 0},
        {"goal": "cook an egg ", "sol1": "freeze it", "sol2": "boil it for a few minutes", "label": 1},
    ]


def _winogrande(_: str) -> list[Row]:
    return [
        {"sentence": "The cup fell off the desk as _ was round.", "option1": "the cup", "option2": "it", "answer": "1"},
        {"sentence": "Ann paid Eve because _ had worked.", "option1": "Ann", "option2": "Eve", "answer": "2"},
    ]


def _mmlu(split: str) -> list[Row]:
    def rows(subject: str, count: int) -> list[Row]:
        return [
            {
                "question": f" In {split}, what is {number} plus {number}? ",
                "subject": subject,
                "choices": [str(number + place) for place in range(4)],
                "answer": number % 4,
            }
            for number in range(count)
        ]

    return rows("anatomy", 5) + rows("high_school_physics", 5) + (rows("virology", 5) if split == "dev" else [])


def _qnli(_: str) -> list[Row]:
    return [
        {"question": "Who rose?", "sentence": "The sun rose.", "label": 0, "idx": 0},
        {"question": "When was it? ", "sentence": "It rained.", "label": 1, "idx": 1},
    ]


def _mnli(_: str) -> list[Row]:
    return [
        {"premise": "It rains all day.", "hypothesis": "It is wet ", "label": 0, "idx": 0},
        {"premise": "It rains.", "hypothesis": "A dog barks.", "label": 1, "idx": 1},
        {"premise": "It rains.", "hypothesis": "It is dry", "label": 2, "idx": 2},
    ]


def _adv_glue(split: str) -> list[Row]:
    rows: dict[str, list[Row]] = {
        "sst2": [
            {"sentence": "a gooood film", "original_sentence": "a good film", "label": 1},
            {"sentence": "dull", "label": 0},
        ],
        "qqp": [{"question1": "Why?", "original_question1": "Why so?", "question2": "What for?", "label": 1}],
        "mnli": [{"premise": "It rayns.", "original_premise": "It rains.", "hypothesis": "It is wet.", "label": 0}],
        "mnli_mm": [{"premise": "It rains.", "original_hypothesis": "It is dry.", "hypothesis": "Dry.", "label": 2}],
        "qnli": [{"question": "Who roze?", "original_question": "Who rose?", "sentence": "The sun rose.", "label": 0}],
        "rte": [{"sentence1": "Bo sings.", "original_sentence1": "Bo sang.", "sentence2": "He sings", "label": 0}],
    }  # fmt: skip
    return [{"idx": number, **row} for number, row in enumerate(rows[split])]


def _truthfulqa(split: str) -> list[Row]:
    return _TRUTHFULQA_CSV if split == "llmcbench_csv" else _truthfulqa_choices()


_TRUTHFULQA_CSV = [
    {
        "Question": "Is the moon made of cheese?",
        "Best Answer": " It is rock",
        "Correct Answers": "No; It is rock.;; Nobody has  eaten it",
        "Incorrect Answers": "Yes, of cheese; It is; It is",
    },
    {
        "Question": "Do pigs fly? ",
        "Best Answer": "They do not",
        "Correct Answers": "They do not",
        "Incorrect Answers": "At night.; On Mondays;",
    },
]


def _truthfulqa_choices() -> list[Row]:
    return [
        {
            "question": "Is the moon made of cheese?",
            "mc1_targets": {"choices": ["No.", "Yes, of cheese."], "labels": [1, 0]},
            "mc2_targets": {"choices": ["No.", "It is rock.", "Yes, of cheese."], "labels": [1, 1, 0]},
        },
        {
            "question": "Do pigs fly?",
            "mc1_targets": {"choices": ["They do not", "At night", "On Mondays"], "labels": [1, 0, 0]},
            "mc2_targets": {"choices": ["They do not", "At night", "On Mondays", "Yes"], "labels": [1, 0, 0, 0]},
        },
    ]


def _wikitext2(_: str) -> list[Row]:
    lines = ["", " = Rain = \n", ""]
    lines += [f" It rained on day {day} , and the {'small ' * (day % 3)}river rose .\n" for day in range(6)]
    lines += ["", " = = Flood = = \n", "", " The '' flood '' ( a large one ) came at 10 @.@ 5 o 'clock .\n"]
    lines += ["", " = Sun = \n", "", " The sun 's heat : 20 ° N of it ; dry land .\n", ""]
    return [{"text": line} for line in lines]


_MADE = {
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "hellaswag": _hellaswag,
    "piqa": _piqa,
    "winogrande": _winogrande,
    "mmlu": _mmlu,
    "qnli": _qnli,
    "mnli": _mnli,
    "adv_glue": _adv_glue,
    "truthfulqa": _truthfulqa,
    "wikitext2": _wikitext2,
}
