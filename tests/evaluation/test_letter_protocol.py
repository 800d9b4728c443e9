"""The letter protocol: prompts of our own, one next token, and a wording that cannot change without a new name."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from harness.contract.tasks import LetterTask, load_tasks
from harness.errors import BadRequest, Unsupported
from harness.evaluation.definitions import ModelFacts, Prepared, prepare
from harness.evaluation.prepared import Answer
from harness.evaluation.tasks import find_task
from tests.support.small_checkpoints import byte_tokenizer
from tests.support.task_rows import made_rows
from tests.support.zoo import ZOO, zoo_folder

LETTER_TASKS = [task.name for task in load_tasks().values() if isinstance(task, LetterTask)]
WORDINGS = {
    "letter/advglue@1": "ddf0180c721cfd3dd0a85c9b0f96244e69f7b57b58fa862c3e10f21e9ecc04b3",
    "letter/mmlu@1": "2415524b29108c734157cc748a7b608467f644a3edb43bcc3b4916f62cbaa1c7",
    "letter/mnli@1": "2d03dc44adbc30d21986f44266f6909e4fcbd27456571153736fe5a8b34f28fe",
    "letter/qnli@1": "1646d1360d6da2c247a3ae67c625ec025c63e16a5ad43efd7bc2aadb89272226",
}


def prepared_letters(
    name: str, tokenizer: PreTrainedTokenizerBase | None = None, **rows: list[dict[str, Any]]
) -> Prepared[Any]:
    task = find_task(name)
    tokenizer = tokenizer or byte_tokenizer()
    content = {split: made_rows(task.dataset, split) for split in task.splits} | rows
    return prepare(task, content, ModelFacts(tokenizer, 2048, len(tokenizer)))


def test_every_wording_has_the_digest_that_its_protocol_name_stands_for() -> None:
    """A changed template changes what is measured: give the protocol a new number, then the digest here."""
    tasks = (find_task(name) for name in LETTER_TASKS)
    assert {task.protocol: task.template_sha256 for task in tasks if isinstance(task, LetterTask)} == WORDINGS


@pytest.mark.parametrize("name", LETTER_TASKS)
def test_a_letters_request_is_its_one_token_after_the_whole_prompt(name: str) -> None:
    tokenizer = byte_tokenizer()
    prepared = prepared_letters(name, tokenizer)
    for index in range(len(prepared)):
        requests = prepared.requests(index)
        assert {len(request.continuation) for request in requests} == {1}
        texts = [tokenizer.decode(request.context + request.continuation) for request in requests]
        assert {text[-1] for text in texts} <= set("ABCD")
        assert all(text[:-1].endswith(("answer: ", "statement: ")) for text in texts)


@pytest.mark.parametrize("name", ZOO)
def test_every_zoo_tokenizer_knows_the_letters(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(zoo_folder(name))
    requests = prepared_letters("mmlu-letter", tokenizer).requests(0)
    assert len({request.context for request in requests}) == 1
    assert len({request.continuation for request in requests}) == 4


def test_each_task_offers_the_letters_that_it_has() -> None:
    assert [len(prepared_letters(name).requests(0)) for name in ("mmlu-letter", "mnli-letter", "qnli-letter")] == [
        4,
        3,
        2,
    ]


def test_the_likeliest_letter_is_picked_and_compared_with_the_label() -> None:
    prepared = prepared_letters("mnli-letter")
    answers = [Answer(value, greedy=False) for value in (-3.0, -1.0, -2.0)]
    items = [prepared.judge(index, answers) for index in range(3)]
    assert [item.picked for item in items] == [1, 1, 1]
    assert [item.correct["acc"] for item in items] == [0.0, 1.0, 0.0]
    assert prepared.summarise(items).metrics["acc"] == pytest.approx(1 / 3)


def test_attacked_texts_are_asked_before_and_after_the_attack() -> None:
    tokenizer = byte_tokenizer()
    prepared = prepared_letters("advglue-letter", tokenizer)
    attacked, plain = prepared.requests(0), prepared.requests(1)
    assert [len(attacked), len(plain)] == [4, 2]
    assert "a gooood film" in tokenizer.decode(attacked[0].context)
    assert "a good film" in tokenizer.decode(attacked[2].context)
    item = prepared.judge(0, [Answer(value, greedy=False) for value in (-1.0, -2.0, -2.0, -1.0)])
    assert item.correct == {"acc": 0.0, "acc_original": 1.0}
    assert item.original_log_likelihoods == (-2.0, -1.0)


def test_rows_with_equal_prompts_are_asked_one_by_one() -> None:
    row = made_rows("qnli", "validation")[0]
    prepared = prepared_letters("qnli-letter", validation=[row, row])
    assert len(prepared) == 2
    assert prepared.requests(0) == prepared.requests(1)


def test_the_result_names_the_wording() -> None:
    details = prepared_letters("qnli-letter").details
    task = find_task("qnli-letter")
    assert isinstance(task, LetterTask)
    assert (details.scoring, details.shots, details.template_sha256) == ("next-token", 0, task.template_sha256)


def test_a_tokenizer_that_does_not_tell_the_letters_apart_is_unsupported() -> None:
    alphabet = {piece: number for number, piece in enumerate("abcdefghijklmnopqrstuvwxyz :?.")}
    backend = Tokenizer(models.WordLevel({"<unk>": len(alphabet), **alphabet}, unk_token="<unk>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")  # noqa: S106
    with pytest.raises(Unsupported, match="as one token each"):
        prepared_letters("qnli-letter", tokenizer)


def test_rows_without_the_templates_fields_are_refused_by_their_number() -> None:
    good = made_rows("qnli", "validation")[0]
    with pytest.raises(BadRequest, match="row 1 of qnli/validation does not fit"):
        prepared_letters("qnli-letter", validation=[good, {"question": "Where?", "label": 0}])
    with pytest.raises(BadRequest, match="row 0 of qnli/validation has no whole number in the field 'label'"):
        prepared_letters("qnli-letter", validation=[{**good, "label": "entailment"}])
