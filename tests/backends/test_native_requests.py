"""What the native backend does with a request: its cache, its options, what it falls back to, and what it refuses."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from harness.backends.native.opened_model import OpenedModel
from harness.contract import CheckpointFormat, Dtype
from harness.errors import BadRequest, Unsupported
from tests.backends import benchmark_requests
from tests.support.small_checkpoints import publish_checkpoint, small_model
from tests.support.stored_zoo import quantize, stored
from tests.support.zoo import ZOO, zoo_checkpoint

pytestmark = pytest.mark.usefixtures("warm")
perform = partial(benchmark_requests.perform, backend="native", repeats=1)
STATIC = "decoded over a static cache, one operation after the other; linears of 2 blocks joined"


@pytest.mark.parametrize("name", ZOO)
def test_what_it_generates_in_float32_is_what_transformers_generates(tmp_path: Path, name: str) -> None:
    zoo_checkpoint(name, tmp_path / "model")
    asked = {"prompt_tokens": 16, "generate_tokens": 24, "dtype": Dtype.FLOAT32}
    ours, theirs = (perform(tmp_path / "model", backend=backend, **asked) for backend in ("native", "transformers"))
    assert [speed.greedy_tokens for speed in ours.speeds] == [speed.greedy_tokens for speed in theirs.speeds]
    assert all(len(speed.greedy_tokens) == 24 for speed in ours.speeds)
    assert any("static cache" in note for note in ours.notes)
    assert theirs.notes == ()


def test_a_static_cache_reserves_the_room_that_was_asked_for(checkpoint: Path) -> None:
    result = perform(checkpoint, kv_tokens=200)
    assert result.memory_parts is not None
    assert result.memory_parts.kv_cache_bytes == 200 * 2 * 2 * 2 * 8 * 4
    assert result.notes == (STATIC,)
    assert result.start_up is not None
    assert result.start_up.compile_seconds is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decodng": "static"}, "native has no option 'decodng'"),
        ({"decoding": "fast"}, "option 'decoding' of native cannot be 'fast'"),
    ],
)
def test_options_of_no_backend_are_refused(checkpoint: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        perform(checkpoint, options=options)


def test_a_graph_on_a_cpu_is_unsupported(checkpoint: Path) -> None:
    with pytest.raises(Unsupported, match="decoding=graph replays a CUDA graph, and this is a CPU"):
        perform(checkpoint, options={"decoding": "graph"})


def test_attention_that_slides_within_the_context_is_not_decoded_statically(tmp_path: Path) -> None:
    model = small_model("mistral")
    model.config.sliding_window = 8
    sliding = publish_checkpoint(tmp_path / "sliding", model)
    (note,) = perform(sliding).notes
    assert note.startswith("decoded with a growing cache: attention reaches back 8 positions")
    with pytest.raises(Unsupported, match="reaches back 8 positions, which a static cache of 16 does not follow"):
        perform(sliding, options={"decoding": "static"})


def test_a_rotary_embedding_that_changes_with_the_length_is_not_decoded_statically(tmp_path: Path) -> None:
    model = small_model("llama")
    model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    scaled = publish_checkpoint(tmp_path / "scaled", model)
    with pytest.raises(Unsupported, match=r"the rotary embedding \(dynamic\) changes with the length"):
        perform(scaled, options={"decoding": "static"})


def test_ways_to_multiply_are_chosen_for_each_batch_size_that_is_asked_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen_for: list[int] = []

    def place(self: OpenedModel, tokens: Sequence[int]) -> tuple[str, ...]:
        chosen_for.extend(tokens)
        return ()

    monkeypatch.setattr(OpenedModel, "place", place)
    perform(checkpoint, batch_sizes=(2, 3, 5))
    assert sorted(chosen_for) == [2, 3, 5, 5 * (8 + 5)]


def test_packed_weights_are_dequantized_on_a_cpu_and_predicted_as_dense(tmp_path: Path) -> None:
    zoo_checkpoint("llama-gqa", tmp_path / "dense")
    dense = perform(tmp_path / "dense")
    packed = perform(
        quantize(tmp_path / "dense", tmp_path / "packed", stored(CheckpointFormat.PACK_QUANTIZED, 4, symmetric=True))
    )
    assert dense.memory_prediction is not None
    assert packed.memory_prediction is not None
    assert packed.memory_prediction.weight_bytes == dense.memory_prediction.weight_bytes
    assert "served as dense weights" in packed.notes[0]
    assert packed.notes[0].endswith("this backend's kernels for codes are a GPU's")
