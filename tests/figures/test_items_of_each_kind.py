"""An item that contradicts itself is refused, whatever kind of task it is of, and an honest one never."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.contract.items import (
    AttackedItem,
    ChoiceItem,
    Item,
    JudgedItem,
    PageItem,
    SegmentItem,
    TruthItem,
    item_type,
)

CHOICE: dict[str, Any] = {
    "index": 0,
    "document": "d",
    "log_likelihoods": [-30.0, -20.0, -24.0],
    "gold": 2,
    "picked": 1,
    "picked_norm": 2,
    "lengths": [10, 10, 20],
    "correct": {"acc": 0.0, "acc_norm": 1.0},
    "group": "g",
}
LETTER = {**CHOICE, "picked_norm": None, "lengths": None, "gold": 1, "correct": {"acc": 1.0}}
ATTACKED = {**LETTER, "original_log_likelihoods": [-1.0, -2.0, -3.0], "correct": {"acc": 1.0, "acc_original": 0.0}}
TRUTH = {
    "index": 0,
    "document": "d",
    "log_likelihoods": [-3.0, -2.0, -3.0, -2.0, -1.0],
    "gold": 0,
    "picked": 1,
    "mc1_choices": 2,
    "mc2_true": [0, 2],
    "correct": {"mc1": 0.0, "mc2": (math.exp(-2) + 1) / (math.exp(-2) + math.exp(-1) + 1)},
}
SEGMENT = {"index": 0, "negative_log_likelihood": 12.5, "tokens": 7}
PAGE = {**SEGMENT, "document": "d", "words": 5, "bytes": 30}
JUDGED = {"index": 0, "document": "d", "correct": {"f1": 0.25}}
HONEST: list[tuple[dict[str, Any], type[Item]]] = [
    (CHOICE, ChoiceItem),
    (LETTER, ChoiceItem),
    (ATTACKED, AttackedItem),
    ({**LETTER, "original_log_likelihoods": []}, AttackedItem),
    (TRUTH, TruthItem),
    (SEGMENT, SegmentItem),
    ({**SEGMENT, "negative_log_likelihood": None}, SegmentItem),
    (PAGE, PageItem),
    (JUDGED, JudgedItem),
    ({**CHOICE, "log_likelihoods": [-1, None, -2], "picked": None, "picked_norm": None, "correct": {}}, ChoiceItem),
    ({**CHOICE, "lengths": None}, ChoiceItem),
]


@pytest.mark.parametrize(("fields", "kind"), HONEST)
def test_an_item_is_of_the_kind_that_its_fields_tell(fields: dict[str, Any], kind: type[Item]) -> None:
    assert item_type(fields) is kind
    assert kind.model_validate(fields).is_scored is (
        fields.get("correct", fields.get("negative_log_likelihood")) not in ({}, None)
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({**CHOICE, "correct": {"acc": 1.0, "acc_norm": 1.0}}, "acc is 1, with picked 1 and gold 2"),
        ({**CHOICE, "correct": {"acc": 0.0, "acc_norm": 0.0}}, "acc_norm is 0, with picked_norm 2 and gold 2"),
        ({**CHOICE, "correct": {"acc": 0.5}}, "acc is 0.5"),
        ({**CHOICE, "gold": 1}, "acc is 0, with picked 1 and gold 1"),
        ({**CHOICE, "gold": 3}, "gold is 3, of 3 choices"),
        ({**CHOICE, "picked": 2, "correct": {"acc": 1.0}}, "picked is 2, and the largest is 1"),
        ({**CHOICE, "picked": 3}, "picked is 3, of 3 choices"),
        ({**CHOICE, "picked_norm": 1, "correct": {"acc_norm": 0.0}}, "picked_norm is 1, and the largest is 2"),
        ({**CHOICE, "lengths": None, "picked_norm": 7}, "picked_norm is 7, of 3 choices"),
        ({**CHOICE, "lengths": [10, 10]}, "2 lengths of 3 choices"),
        ({**CHOICE, "lengths": [10, 0, 10]}, "greater than 0"),
        ({**CHOICE, "picked_norm": None, "lengths": None}, "acc_norm is 1, with picked_norm None"),
        ({**CHOICE, "picked": None}, "nothing is picked"),
        ({**CHOICE, "correct": {}}, "nothing correct"),
        ({**CHOICE, "correct": {"acc_original": 1.0}}, "acc_original without log-likelihoods of its own"),
        ({**CHOICE, "correct": {"mc2": 1.0}}, "mc2 without log-likelihoods of its own"),
        ({**CHOICE, "log_likelihoods": [-30.0, None, -24.0]}, "a log-likelihood is no finite number"),
        ({**CHOICE, "log_likelihoods": [-30.0, 5.0, -24.0]}, "less than or equal to 0.001"),
        ({**CHOICE, "log_likelihoods": []}, "at least 1 item"),
        (
            {**ATTACKED, "correct": {"acc": 1.0, "acc_original": 1.0}},
            "acc_original is 1, and the log-likelihoods give 0",
        ),
        ({**ATTACKED, "correct": {"acc": 1.0}}, "stand together or not at all"),
        ({**ATTACKED, "original_log_likelihoods": []}, "acc_original without log-likelihoods of its own"),
        ({**ATTACKED, "original_log_likelihoods": [-1.0]}, "1 original log-likelihoods of 3 choices|acc_original"),
        ({**ATTACKED, "original_log_likelihoods": [-1.0, -2.0, None]}, "a log-likelihood is no finite number"),
        ({**TRUTH, "correct": {"mc1": 0.0, "mc2": 0.9}}, "mc2 is 0.9, and the log-likelihoods give 0.75"),
        ({**TRUTH, "correct": {"mc1": 1.0}}, "mc1 is 1, with picked 1 and gold 0"),
        ({**TRUTH, "picked": 4}, "picked is 4, of 2 choices"),
        ({**TRUTH, "gold": 2}, "gold is 2, of 2 choices"),
        ({**TRUTH, "mc2_true": [0, 1, 2]}, "mc2_true are not some of 3 choices"),
        ({**TRUTH, "mc2_true": [1, 1]}, "mc2_true are not some of 3 choices"),
        ({**TRUTH, "mc2_true": [3]}, "mc2_true are not some of 3 choices"),
        ({**TRUTH, "mc2_true": []}, "mc2_true are not some of 3 choices"),
        ({**SEGMENT, "negative_log_likelihood": -1.0}, "greater than or equal to -0.001"),
        ({**PAGE, "words": 40}, "40 words in 30 bytes"),
        ({**JUDGED, "correct": {"acc": 1.0}}, "acc without log-likelihoods to pick by"),
        ({**JUDGED, "correct": {"f1": 1.5}}, "less than or equal to 1"),
    ],
)
def test_an_item_that_contradicts_itself_is_refused_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        item_type(fields).model_validate(fields)


def test_of_equal_choices_any_may_be_picked() -> None:
    tied = {**CHOICE, "log_likelihoods": [-1.0, -1.0, -2.0], "gold": 0, "picked_norm": 0, "lengths": None}
    for pick in (0, 1):
        right = float(pick == 0)
        assert ChoiceItem.model_validate({**tied, "picked": pick, "correct": {"acc": right}}).correct == {"acc": right}


Likelihoods = st.lists(st.floats(-1e4, 0.0, width=32), min_size=2, max_size=6)


@given(likelihoods=Likelihoods, data=st.data())
def test_what_follows_from_the_log_likelihoods_is_never_refused_and_its_opposite_always(
    likelihoods: list[float], data: st.DataObject
) -> None:
    lengths = [data.draw(st.integers(1, 500)) for _ in likelihoods]
    each = [value / length for value, length in zip(likelihoods, lengths, strict=True)]
    picked, picked_norm = likelihoods.index(max(likelihoods)), each.index(max(each))
    gold = data.draw(st.integers(0, len(likelihoods) - 1))
    item = {
        **CHOICE,
        "log_likelihoods": likelihoods,
        "lengths": lengths,
        "gold": gold,
        "picked": picked,
        "picked_norm": picked_norm,
        "correct": {"acc": float(picked == gold), "acc_norm": float(picked_norm == gold)},
    }
    assert ChoiceItem.model_validate(item).correct == item["correct"]
    for name, value in item["correct"].items():
        with pytest.raises(ValidationError, match=f"{name} is"):
            ChoiceItem.model_validate({**item, "correct": {**item["correct"], name: 1 - value}})
