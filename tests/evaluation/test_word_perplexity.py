"""lm-eval's word perplexity from the data set's lines: the same pages, windows and figures as lm-eval's own."""

import gzip
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.contract.tasks import WordPerplexityTask
from harness.errors import BadCheckpoint, Unsupported
from harness.evaluation.definitions import ModelFacts, Prepared, prepare
from harness.evaluation.definitions.documents import join_pages
from harness.evaluation.prepared import Answer
from harness.evaluation.tasks import find_task
from tests.support.lm_eval_reference import TokenisingModel, lm_eval_task, made_up_likelihood
from tests.support.small_checkpoints import byte_tokenizer
from tests.support.task_rows import made_rows
from tests.support.zoo import zoo_folder

CONTEXT = 40
RAW_TEST_SHA256 = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
"""Of wiki.test.raw in the original distribution of WikiText-2."""


def pages_of(tokenizer: PreTrainedTokenizerBase, *, limit: int | None = None) -> Prepared[Any]:
    rows = {"test": made_rows("wikitext2", "test")}
    return prepare(find_task("wikitext2-words"), rows, ModelFacts(tokenizer, CONTEXT, len(tokenizer)), limit=limit)


def trained_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(zoo_folder("llama-mha"))


@pytest.mark.parametrize(
    "make", [trained_tokenizer, byte_tokenizer, lambda: byte_tokenizer(add_beginning=True)],
    ids=["trained", "bytes", "bytes with a beginning"],
)  # fmt: skip
def test_windows_and_figures_are_lm_evals(make: Any) -> None:
    tokenizer = make()
    task = find_task("wikitext2-words")
    assert isinstance(task, WordPerplexityTask)
    prepared = pages_of(tokenizer)
    pages = list(join_pages([row["text"] for row in made_rows("wikitext2", "test")]))
    documents = [{"page": page} for page in pages]
    reference = lm_eval_task(task.definition, {"validation": documents, "test": documents})
    model = TokenisingModel(tokenizer, CONTEXT)
    totals = model.loglikelihood_rolling(reference.instances, disable_tqdm=True)
    asked = [request for index in range(len(prepared)) for request in prepared.requests(index)]
    assert asked == model.asked
    assert max(len(request.context) + len(request.continuation) for request in asked) == CONTEXT + 1

    items = [
        prepared.judge(
            index,
            [Answer(made_up_likelihood(request.continuation), greedy=False) for request in prepared.requests(index)],
        )
        for index in range(len(prepared))
    ]
    assert [item.negative_log_likelihood for item in items] == [-total for total in totals]
    metrics = prepared.summarise(items).metrics
    aggregates = reference.aggregation()
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        verdicts = [
            reference.process_results(document, (total,))[name]
            for document, total in zip(reference.task_docs, totals, strict=True)
        ]
        assert metrics[name] == pytest.approx(aggregates[name](verdicts), rel=1e-12)


def test_a_page_begins_with_a_heading_of_the_first_level_alone() -> None:
    pages = list(join_pages([row["text"] for row in made_rows("wikitext2", "test")]))
    assert [page.split("\n")[0] for page in pages] == [" = Rain = ", " = Sun = "]
    assert " = = Flood = = " in pages[0]
    assert pages[0].startswith(" = Rain = \n \n It rained")


def test_a_limit_takes_the_first_pages() -> None:
    prepared = pages_of(byte_tokenizer(), limit=1)
    assert (len(prepared), prepared.available) == (1, 2)


def test_words_and_bytes_are_those_of_the_page_before_it_was_tidied() -> None:
    prepared = pages_of(byte_tokenizer())
    page = list(join_pages([row["text"] for row in made_rows("wikitext2", "test")]))[1]
    item = prepared.judge(1, [Answer(-1.0, greedy=False)] * len(prepared.requests(1)))
    assert item.bytes == len(page.encode())
    assert item.words > len(page.split())
    assert item.negative_log_likelihood == len(prepared.requests(1))


def test_a_broken_page_is_excluded_and_counted() -> None:
    prepared = pages_of(byte_tokenizer())
    items = [
        prepared.judge(index, [Answer(value, greedy=False)] * len(prepared.requests(index)))
        for index, value in enumerate((-1.0, math.nan))
    ]
    summary = prepared.summarise(items)
    assert (summary.scored, summary.excluded) == (1, {"log_likelihood_not_finite": 1})
    assert "word_perplexity_stderr" not in summary.metrics


@pytest.mark.parametrize("value", [-math.inf, -1e7])
def test_a_model_that_gives_the_text_no_likelihood_is_an_error_and_no_score(value: float) -> None:
    prepared = pages_of(byte_tokenizer())
    items = [prepared.judge(index, [Answer(value, False)] * len(prepared.requests(index))) for index in range(2)]
    with pytest.raises(BadCheckpoint, match="no finite likelihood"):
        prepared.summarise(items)


def test_the_standard_error_is_that_of_a_ratio() -> None:
    prepared = pages_of(byte_tokenizer())
    items = [prepared.judge(index, [Answer(-3.0, False)] * len(prepared.requests(index))) for index in range(2)]
    summary = prepared.summarise(items)
    words = [item.words for item in items]
    nats = [item.negative_log_likelihood for item in items]
    rate = sum(nats) / sum(words)
    error = math.sqrt(2 * sum((n - rate * w) ** 2 for n, w in zip(nats, words, strict=True))) / sum(words)
    assert summary.metrics["word_perplexity_stderr"] == pytest.approx(math.exp(rate) * error)


def test_lines_without_the_blank_ones_cannot_be_made_pages() -> None:
    tokenizer = byte_tokenizer()
    rows = {"test": [row for row in made_rows("wikitext2", "test") if row["text"]]}
    with pytest.raises(Unsupported, match="has no blank rows"):
        prepare(find_task("wikitext2-words"), rows, ModelFacts(tokenizer, CONTEXT, len(tokenizer)))


@pytest.mark.skipif("LLMCBENCH_DATA" not in os.environ, reason="LLMCBENCH_DATA names no folder with the data sets")
def test_the_real_lines_give_the_original_file_and_its_sixty_two_pages() -> None:
    path = Path(os.environ["LLMCBENCH_DATA"]) / "wikitext2" / "test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [json.loads(line)["text"] for line in file]
    pages = list(join_pages(lines))
    assert len(pages) == 62
    whole = "\n".join([" ", *pages]) if lines[0] == "" else "\n".join(pages)
    assert hashlib.sha256(whole.encode()).hexdigest() == RAW_TEST_SHA256
