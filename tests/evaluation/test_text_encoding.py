"""Text to tokens: batches, contexts, what stands before an empty one, and tokenizers that cannot be used."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.contract import Reason
from harness.errors import BadCheckpoint, Unsupported
from harness.evaluation.definitions import ModelFacts, encoding
from harness.evaluation.definitions.encoding import TextEncoder
from harness.evaluation.prepared import TokenRequest
from tests.support.lm_eval_reference import TokenisingModel
from tests.support.small_checkpoints import BEGINNING, END, byte_tokenizer
from tests.support.zoo import ZOO, zoo_folder

PAIRS = [
    ("Question: why?\nAnswer:", " because"),
    ("Question: why?\nAnswer:", " so"),
    ("ends in spaces  \n ", "and goes on"),
    ("", " no context"),
    ("", f"{BEGINNING}begun"),
    (f"{BEGINNING}begun already", " and more"),
    ("Größe — 数", " 量"),
    ("x", ""),
]


def encoder(tokenizer: PreTrainedTokenizerBase, *, vocabulary_size: int | None = None) -> TextEncoder:
    return TextEncoder(ModelFacts(tokenizer, 512, vocabulary_size or len(tokenizer)))


def requests(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> list[TokenRequest]:
    return [pair.request for pair in encoder(tokenizer).encode_pairs(pairs)]


def lm_eval_requests(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> list[TokenRequest]:
    from lm_eval.api.instance import Instance

    model = TokenisingModel(tokenizer, 512)
    model.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)
    return model.asked


@pytest.mark.parametrize("add_beginning", [False, True])
def test_pairs_are_split_as_lm_eval_splits_them(add_beginning: bool) -> None:
    tokenizer = byte_tokenizer(add_beginning=add_beginning)
    assert requests(tokenizer, PAIRS) == lm_eval_requests(tokenizer, PAIRS)


@pytest.mark.parametrize("name", ZOO)
def test_every_zoo_tokenizer_splits_as_lm_eval_does(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(zoo_folder(name))
    assert requests(tokenizer, PAIRS) == lm_eval_requests(tokenizer, PAIRS)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=8)), min_size=1, max_size=8))
def test_a_batch_gives_what_its_pairs_give_alone(pairs: list[tuple[str, str]]) -> None:
    together = encoder(byte_tokenizer(add_beginning=True)).encode_pairs(pairs)
    for pair, alone in zip(pairs, together, strict=True):
        (single,) = encoder(byte_tokenizer(add_beginning=True)).encode_pairs([pair])
        assert single.request == alone.request
        assert alone.request.context


def test_small_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer(add_beginning=True)
    whole = requests(tokenizer, PAIRS)
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", 30)
    assert requests(tokenizer, PAIRS) == whole


def test_spaces_at_the_end_of_a_context_are_scored_with_the_continuation() -> None:
    (request,) = requests(byte_tokenizer(), [("a  ", "b")])
    assert byte_tokenizer().decode(request.continuation) == "  b"


def test_without_a_beginning_token_the_end_token_stands_first() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = None
    (request,) = requests(tokenizer, [("", "x")])
    assert request.context == (tokenizer.convert_tokens_to_ids(END),)


def test_a_tokenizer_with_neither_token_can_do_all_but_begin() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    (request,) = requests(tokenizer, [("a", "b")])
    assert request == TokenRequest(tuple(tokenizer.encode("a")), tuple(tokenizer.encode("b")))
    with pytest.raises(Unsupported, match="neither a beginning-of-sequence nor an end-of-sequence token") as refusal:
        requests(tokenizer, [("", "b")])
    assert refusal.value.reason is Reason.TASK


def test_a_tokenizer_that_ends_every_text_is_refused() -> None:
    tokenizer = byte_tokenizer()
    end = tokenizer.convert_tokens_to_ids(END)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, end)]
    )
    with pytest.raises(Unsupported, match=r"ends every text with '</s>'"):
        encoder(tokenizer)


def test_what_the_tokenizer_puts_first_is_named() -> None:
    assert encoder(byte_tokenizer(add_beginning=True)).beginning_token == BEGINNING
    assert encoder(byte_tokenizer()).beginning_token is None


def test_a_token_without_a_row_in_the_embedding_is_named_before_anything_is_computed() -> None:
    tokenizer = byte_tokenizer()
    with pytest.raises(BadCheckpoint, match="the model's embedding has 20 rows"):
        encoder(tokenizer, vocabulary_size=20).encode(["zebra"])
