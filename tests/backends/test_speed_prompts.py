"""Given prompts: token numbers or text, from a file or a folder, and what is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from harness.backends.base import BatchOrder, TimedRun
from harness.backends.prompts import read_prompts
from harness.backends.transformers import TransformersEngine
from harness.contract import BenchmarkResult
from harness.errors import BadRequest
from tests.backends import benchmark_requests
from tests.support.small_checkpoints import byte_tokenizer, publish_dataset

TEXT = "The mill stands by the river."


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def perform(checkpoint: Path, prompts: Path, **parameters: Any) -> BenchmarkResult:
    asked = {"prompt_tokens": 4, "generate_tokens": 3, "batch_sizes": (2,), "repeats": 1} | parameters
    return benchmark_requests.perform(checkpoint, backend="transformers", prompts=prompts, **asked)


def test_token_numbers_and_texts_are_cut_to_the_length_and_short_ones_left_out(
    tmp_path: Path, checkpoint: Path
) -> None:
    rows = ({"token_ids": [1, 2, 3, 4, 5]}, {"token_ids": [9]}, {"text": TEXT}, {"token_ids": [7, 7, 7, 7]})
    prompts = read_prompts(lines(tmp_path / "prompts.jsonl", *rows), checkpoint, count=3, tokens=4)
    assert prompts == ((1, 2, 3, 4), tuple(byte_tokenizer()(TEXT)["input_ids"][:4]), (7, 7, 7, 7))


def test_texts_with_blank_lines_between_them_and_a_packed_file_in_a_folder(tmp_path: Path, checkpoint: Path) -> None:
    text = tmp_path / "prompts.txt"
    text.write_text("first text\n\nsecond\ntext\n", encoding="utf-8")
    expected = tuple(tuple(byte_tokenizer()(one)["input_ids"][:6]) for one in ("first text", "second\ntext"))
    assert read_prompts(text, checkpoint, count=2, tokens=6) == expected
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "prompts.jsonl.gz").write_bytes(gzip.compress(b'{"token_ids": [3, 1, 4]}\n'))
    assert read_prompts(folder, checkpoint, count=1, tokens=2) == ((3, 1),)


def test_a_data_set_artifact_gives_prompts(tmp_path: Path, checkpoint: Path) -> None:
    dataset = publish_dataset(tmp_path / "set", "c4", {"train": [{"text": TEXT}]})
    assert read_prompts(dataset, checkpoint, count=1, tokens=5) == (tuple(byte_tokenizer()(TEXT)["input_ids"][:5]),)


def test_the_engine_continues_the_prompts_that_were_given(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    generate = TransformersEngine.run

    def spy(self: TransformersEngine, batch: BatchOrder) -> TimedRun:
        asked.append(batch.prompts)
        return generate(self, batch)

    monkeypatch.setattr(TransformersEngine, "run", spy)
    rows = [{"token_ids": [number] * 4} for number in range(3)]
    result = perform(checkpoint, lines(tmp_path / "prompts.jsonl", *rows), batch_sizes=(1, 3))
    assert [speed.batch_size for speed in result.speeds] == [1, 3]
    assert set(asked) == {((0,) * 4,), ((0,) * 4, (1,) * 4, (2,) * 4)}


def test_too_few_prompts_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(BadRequest, match="has 1 prompts of at least 4 tokens, and a batch needs 2"):
        perform(checkpoint, lines(tmp_path / "prompts.jsonl", {"token_ids": [1, 2, 3, 4]}, {"token_ids": [1]}))


def test_tokens_beyond_the_vocabulary_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(BadRequest, match="holds token 264, and the model has 264"):
        perform(checkpoint, lines(tmp_path / "prompts.jsonl", *[{"token_ids": [1, 2, 3, 264]}] * 2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", "line 1 of the input 'prompts' is no JSON"),
        ('{"token_ids": [1]}\n{"words": 3}', "line 2 of the input 'prompts' has neither token_ids nor text"),
        ('{"token_ids": [1.5]}', "line 1 of the input 'prompts' has neither"),
        ('{"token_ids": [-1]}', "line 1 of the input 'prompts' has neither"),
    ],
)
def test_other_content_is_refused_with_its_line(tmp_path: Path, checkpoint: Path, content: str, words: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadRequest, match=words):
        read_prompts(path, checkpoint, count=2, tokens=1)


def test_a_folder_without_one_file_of_prompts_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(BadRequest, match="has 0 files with prompts instead of one"):
        read_prompts(tmp_path, checkpoint, count=1, tokens=1)
