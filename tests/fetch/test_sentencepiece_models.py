"""A SentencePiece BPE model splits text as its file prescribes, or is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BadCheckpoint, Unsupported
from harness.fetch.sentencepiece import build_tokenizer, read_model
from tests.fetch.sentencepiece_files import USER_DEFINED, ModelFile

MODEL = ModelFile(
    letters="abc den",
    merges=("ab", "▁a", "de", "▁ab", "abc", "cde", "▁▁", "▁abc", "bc", "▁cde", "en", "n▁"),
)


def tokenizer_of(model: ModelFile, folder: Path):
    path = folder / "tokenizer.model"
    path.write_bytes(model.encode())
    return build_tokenizer(read_model(path), ("[MASK]", "sop"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tokenizer_of(MODEL, tmp_path_factory.mktemp("model"))


@given(text=st.text(alphabet="abcden \nés🙂", max_size=40))
def test_text_is_split_by_the_scores_of_its_pieces(tokenizer, text):
    assert tokenizer.encode(text).ids == MODEL.split(text)


@given(text=st.text(alphabet="abcden \nés🙂", max_size=40))
def test_tokens_give_their_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_better_score_wins_over_the_earlier_place(tokenizer):
    ids = {piece: index for index, (piece, _, _) in enumerate(MODEL.pieces)}
    assert tokenizer.encode("cde").ids == [ids["▁cde"]]
    assert tokenizer.encode("bcab").ids == [ids["▁"], ids["bc"], ids["ab"]]


def test_appended_tokens_follow_the_pieces_and_are_not_found_in_text(tokenizer):
    assert tokenizer.token_to_id("sop") == len(MODEL.pieces) + 1
    assert tokenizer.token_to_id("sop") not in tokenizer.encode("sop [MASK]sop").ids


def test_without_a_dummy_prefix_a_text_begins_with_its_first_letter(tmp_path):
    bare = tokenizer_of(replace(MODEL, normaliser={3: 0}), tmp_path)
    assert bare.encode("ab").tokens == ["ab"]
    assert bare.decode(bare.encode(" ab").ids) == " ab"


def test_runs_of_blanks_become_one_where_the_model_says_so(tmp_path):
    squeezing = tokenizer_of(replace(MODEL, normaliser={4: 1}), tmp_path)
    assert squeezing.encode("  ab   c ").ids == MODEL.split("ab c")


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (replace(MODEL, kind=1), "is not a BPE model"),
        (replace(MODEL, extra=(("<n>", USER_DEFINED),)), "has user-defined pieces"),
        (replace(MODEL, normaliser={2: b"rules"}), "normalises text by rules of its own"),
        (replace(MODEL, trainer={24: 1}), "treats blanks in an unusual way"),
        (replace(MODEL, normaliser={5: 0}), "treats blanks in an unusual way"),
    ],
)
def test_a_model_that_splits_otherwise_is_unsupported(tmp_path, model, problem):
    with pytest.raises(Unsupported, match=problem) as refused:
        tokenizer_of(model, tmp_path)
    assert "tokenizer.json" in refused.value.hint


@pytest.mark.parametrize("content", [b"", b"\x00", b"version https://example", MODEL.encode()[:-1], b"\x0a\x7f"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.model"):
        read_model(tmp_path / "tokenizer.model")
