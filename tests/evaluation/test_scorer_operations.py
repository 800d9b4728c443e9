"""How many floating-point operations the scorer says that its answers needed."""

from pathlib import Path
from random import Random

import pytest

from harness.architectures.shape import read_shape
from harness.evaluation.prepared import TokenRequest
from harness.evaluation.scorer import Scorer
from harness.models.loading import LoadedModel
from harness.profiling.macs import SHAPE, count_macs
from tests.evaluation.scorer_reference import load_small, silent, tokens
from tests.support.small_checkpoints import small_model


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return load_small(tmp_path / "model", small_model("llama"))


def operations(loaded: LoadedModel, *requests: TokenRequest) -> int:
    scorer = Scorer(loaded, token_budget=256, report=silent)
    assert len(list(scorer.score(requests))) == len(requests)
    assert scorer.operations is not None
    return scorer.operations


def test_a_sequence_needs_what_its_shape_says_but_for_the_keys_it_may_not_see(loaded: LoadedModel) -> None:
    length = 20
    shape = read_shape(loaded.model.config.to_dict())
    unseen = length * (length - 1) // 2 * 4 * shape.all_heads * shape.head_size
    whole = TokenRequest(tokens(Random(0), 1), tokens(Random(1), length))
    assert operations(loaded, whole) == 2 * count_macs(shape, length)[SHAPE] - unseen


def test_a_common_beginning_is_counted_once(loaded: LoadedModel) -> None:
    context = tokens(Random(0), 30)
    first, second = TokenRequest(context, (1, 2, 3)), TokenRequest(context, (4, 5, 6))
    beginning = operations(loaded, TokenRequest(context, (1,)))
    assert operations(loaded, first, second) == operations(loaded, first) + operations(loaded, second) - beginning


def test_a_trunk_kept_for_many_rows_needs_what_a_row_with_it_would(loaded: LoadedModel) -> None:
    preamble = tokens(Random(0), 80)
    requests = [TokenRequest((*preamble, number, *tokens(Random(number), 39)), (7,)) for number in range(60)]
    head = 2 * read_shape(loaded.model.config.to_dict()).head_weights
    beginning = operations(loaded, TokenRequest(preamble, (7,))) - head
    alone = operations(loaded, requests[0])
    assert operations(loaded, *requests) == len(requests) * alone - (len(requests) - 1) * beginning
