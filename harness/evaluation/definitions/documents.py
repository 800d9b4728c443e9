"""lm-eval's `wikitext`: perplexity by word, by byte, and in bits a byte, of whole pages in rolling windows.

The pages are put together from the data set's lines as the set EleutherAI/wikitext_document_level does it: a page
begins with a heading of the first level. A blank line, which the hub's line form writes as an empty row, is a space and
a line feed in the original file.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.contract import ProtocolDetails, Reason
from harness.contract.items import NOT_FINITE, PageItem, document_digest
from harness.contract.tasks import WordPerplexityTask
from harness.errors import Unsupported
from harness.evaluation.definitions.encoding import EncodedPair, TextEncoder, Tokens
from harness.evaluation.definitions.lm_eval_task import require_version, tasks_folder
from harness.evaluation.definitions.segments import LARGEST_EXPONENT, no_likelihood, read_texts
from harness.evaluation.outcomes import finite_or_none
from harness.evaluation.prepared import Answer, Summary, TokenRequest

if TYPE_CHECKING:
    from harness.evaluation.definitions import ModelFacts

Row = dict[str, Any]
Floats = NDArray[np.float64]

_BLANK_LINE = " \n"


class PreparedDocuments:
    """See `harness.evaluation.definitions.Prepared`. An item is a page, its requests are the page's windows."""

    unit = "pages"
    item_type = PageItem
    truncated: Collection[int] = ()
    notes: tuple[str, ...] = ()

    def __init__(self, task: WordPerplexityTask, pages: Sequence[str], facts: "ModelFacts", *, available: int) -> None:
        from lm_eval.tasks._yaml_loader import load_yaml

        definition = load_yaml(tasks_folder() / task.definition)
        encoder = TextEncoder(facts)
        texts = [definition["doc_to_target"]({"page": page}) for page in pages]
        self._windows = [
            list(_windows(tokens, encoder.prefix_token, facts.context_length)) for tokens in encoder.encode(texts)
        ]
        self._weigh = definition["process_results"]
        self._pages = pages
        self.available = available
        self.details = ProtocolDetails(
            scoring="rolling", beginning_token=encoder.beginning_token, sequence_length=facts.context_length
        )

    def __len__(self) -> int:
        return len(self._pages)

    def requests(self, index: int) -> Sequence[TokenRequest]:
        return [window.request for window in self._windows[index]]

    def judge(self, index: int, answers: Sequence[Answer]) -> PageItem:
        page = self._pages[index]
        likelihood = math.fsum(answer.log_likelihood for answer in answers)
        weighed = self._weigh({"page": page}, (likelihood,))
        return PageItem(
            index=index,
            document=document_digest({"page": page}),
            negative_log_likelihood=finite_or_none(-likelihood),
            tokens=sum(len(window.continuation) for window in self._windows[index]),
            words=weighed["word_perplexity"][1],
            bytes=weighed["byte_perplexity"][1],
        )

    def summarise(self, items: Sequence[PageItem]) -> Summary:
        losses = [
            (item.negative_log_likelihood, item.words, item.bytes)
            for item in items
            if item.negative_log_likelihood is not None
        ]
        if not losses:
            raise no_likelihood()
        nats, words, sizes = (np.asarray(column, dtype=np.float64) for column in zip(*losses, strict=True))
        by_word, by_byte = nats.sum() / words.sum(), nats.sum() / sizes.sum()
        if by_word > LARGEST_EXPONENT:
            raise no_likelihood()
        metrics = {
            "word_perplexity": math.exp(by_word),
            "byte_perplexity": math.exp(by_byte),
            "bits_per_byte": float(by_byte) / math.log(2),
        }
        if len(losses) > 1:
            metrics["word_perplexity_stderr"] = math.exp(by_word) * _ratio_error(nats, words)
            metrics["byte_perplexity_stderr"] = math.exp(by_byte) * _ratio_error(nats, sizes)
            metrics["bits_per_byte_stderr"] = _ratio_error(nats, sizes) / math.log(2)
        excluded = {NOT_FINITE: len(items) - len(losses)} if len(losses) < len(items) else {}
        return Summary(metrics=metrics, scored=len(losses), excluded=excluded)


def prepare_documents(
    task: WordPerplexityTask, rows: Mapping[str, Sequence[Row]], facts: "ModelFacts", *, limit: int | None
) -> PreparedDocuments:
    """See `harness.evaluation.definitions.prepare`."""
    require_version(task.protocol, task.lm_eval_version)
    texts = read_texts(task.dataset, task.split, rows[task.split])
    if all(texts):
        raise Unsupported(
            Reason.TASK,
            f"{task.dataset}/{task.split} has no blank rows, so its pages cannot be put together as they were",
            hint="fetch a copy that keeps the blank rows, as the hub's does",
        )
    pages = list(join_pages(texts))
    return PreparedDocuments(task, pages[:limit], facts, available=len(pages))


def join_pages(lines: Sequence[str]) -> Iterator[str]:
    """The pages of a WikiText file, from its lines as the hub has them: each with its line feed, blank ones empty."""
    page: list[str] = []
    for line in "".join(line or _BLANK_LINE for line in lines).split("\n"):
        if _is_page_heading(line):
            if any(part.strip() for part in page):
                yield "\n".join(page)
            page = []
        page.append(line)
    yield "\n".join(page)


def _is_page_heading(line: str) -> bool:
    """` = Title = `, but not ` = = Section = = `."""
    heading = line.replace("= = =", "===").replace("= =", "==").strip()
    return heading.startswith("= ") and heading.endswith(" =")


def _windows(tokens: Tokens, prefix_token: int, context_length: int) -> Iterator[EncodedPair]:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for window in get_rolling_token_windows(tokens.tolist(), prefix_token, context_length, context_len=1):
        context, continuation = make_disjoint_window(window)
        yield EncodedPair(np.asarray(context, dtype=np.int32), np.asarray(continuation, dtype=np.int32))


def _ratio_error(totals: Floats, weights: Floats) -> float:
    """Standard error of sum(totals) / sum(weights) over items, to first order (the ratio estimator's linearisation)."""
    residuals = totals - weights * totals.sum() / weights.sum()
    count = len(totals)
    return float(np.sqrt(count / (count - 1) * np.square(residuals).sum()) / weights.sum())
