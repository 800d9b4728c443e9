"""lm-eval's groups of tasks and its samples of texts, of items that a test chooses."""

import json
from pathlib import Path

import pytest

from harness.contract.items import ChoiceItem, PageItem, SegmentItem
from orchestrator.evidence.reading import read_evidence
from orchestrator.exchange.evaluations import folder_name, run_evaluations
from orchestrator.exchange.lm_eval_results import results_document, subtasks
from orchestrator.exchange.lm_eval_samples import samples_text
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import shipped_images
from orchestrator.store import Store
from tests.exchange.stored import unpacked


def test_a_task_with_parts_is_a_group_and_its_parts_weigh_their_items(tmp_path: Path) -> None:
    store, catalog = Store(unpacked(tmp_path)), ImageCatalog(shipped_images())
    record = store.runs.load("last")
    evaluated = run_evaluations(record, read_evidence(record, store, catalog), catalog).subjects[0]
    items = {one.task.name: store.outcomes.items(one.stage) for one in evaluated.evaluations}
    items["arc_easy"] = tuple(
        item.model_copy(update={"group": "first part" if item.index < 10 else "rest"}) for item in items["arc_easy"]
    )
    document = results_document(evaluated, items, record, catalog)
    parts = document.group_subtasks["arc_easy"]
    assert parts == ("arc_easy_first__part", "arc_easy_rest")
    assert document.groups == {"arc_easy": document.results["arc_easy"]}
    sizes = [document.results[name]["sample_len"] for name in parts]
    assert sizes == [10, 30]
    for metric in ("acc,none", "acc_norm,none"):
        whole = sum(size * document.results[name][metric] for size, name in zip(sizes, parts, strict=True)) / 40
        assert whole == pytest.approx(document.results["arc_easy"][metric], rel=1e-12)
    assert document.versions["arc_easy_rest"] == document.versions["arc_easy"] == "choice/arc_easy@lm-eval-0.4.13"
    assert document.higher_is_better["arc_easy_rest"] == {"acc": True, "acc_norm": True}
    assert document.higher_is_better["wikitext2-maxctx"]["perplexity"] is False


def sample(item: ChoiceItem | SegmentItem) -> dict[str, object]:
    return json.loads(samples_text([item]))


def test_a_page_bears_its_words_and_bytes_as_in_lm_eval() -> None:
    page = PageItem(index=3, negative_log_likelihood=12.5, tokens=6, document="ab", words=4, bytes=20)
    found = sample(page)
    assert found["resps"] == [[["-12.5"]]]
    assert (found["word_perplexity"], found["byte_perplexity"], found["bits_per_byte"]) == (
        [-12.5, 4], [-12.5, 20], [-12.5, 20],
    )  # fmt: skip


def test_an_item_without_an_outcome_is_there_and_counts_nothing() -> None:
    question = ChoiceItem(index=0, document="ab", log_likelihoods=(None, -2.0), gold=1)
    for item in (question, SegmentItem(index=0, negative_log_likelihood=None, tokens=5)):
        found = sample(item)
        assert found["metrics"] == [] and None in [one[0] for one in found["filtered_resps"]]


def test_items_without_parts_are_no_group() -> None:
    assert subtasks("t", [SegmentItem(index=0, negative_log_likelihood=1.0, tokens=5)]) == {}


def test_a_folder_is_called_as_lm_eval_would_call_it() -> None:
    utils = pytest.importorskip("lm_eval.utils")
    for name in ("opt/wanda-2:4", "smollm2-135m/gptq-W4A16g64/vllm", "llama/llm-pruner-20%"):
        assert folder_name(name) == utils.sanitize_model_name(name)
