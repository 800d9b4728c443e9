"""Perplexity `ppl/<data set>-<length>`: segments of one joined text that do not overlap, as the pruning papers take it.

The rows are joined with a blank line and tokenised once, with the special tokens that the tokenizer adds by itself (so
a beginning-of-sequence token stands at the very start only). The text is cut into segments of `sequence_length` tokens,
and the remainder dropped. In each segment every token but the first is predicted. The perplexity is the exponential of
the mean, over segments, of the mean negative log-likelihood of a predicted token.

`ppl/<data set>-<length>-bos` puts what the tokenizer adds before a text before every segment, as the first of its
tokens: so many tokens of the text are one segment fewer, and all of them are predicted.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.contract import ProtocolDetails, Reason
from harness.contract.items import NOT_FINITE, SegmentItem
from harness.contract.tasks import PerplexityTask
from harness.errors import BadCheckpoint, BadRequest, MissingData, Unsupported
from harness.evaluation.definitions.encoding import TextEncoder, Tokens
from harness.evaluation.outcomes import finite_or_none, standard_error
from harness.evaluation.prepared import Answer, Summary, TokenRequest

if TYPE_CHECKING:
    from harness.evaluation.definitions import ModelFacts

Row = dict[str, Any]

LARGEST_EXPONENT = 700.0
"""In nats: beyond it the exponential is no double any more, and the model gives the text no likelihood at all."""


class PreparedSegments:
    """See `harness.evaluation.definitions.Prepared`. `segments` is int32 [segments, tokens].

    `context_tokens` is how many tokens of a segment are given and not predicted.
    """

    unit = "segments"
    item_type = SegmentItem
    truncated: Collection[int] = ()

    def __init__(
        self,
        segments: Tokens,
        details: ProtocolDetails,
        *,
        available: int,
        context_tokens: int = 1,
        notes: tuple[str, ...] = (),
    ) -> None:
        self._segments = segments
        self._context_tokens = context_tokens
        self.notes = notes
        self.details = details
        self.available = available

    def __len__(self) -> int:
        return len(self._segments)

    def requests(self, index: int) -> Sequence[TokenRequest]:
        tokens = self._segments[index].tolist()
        return [TokenRequest(tuple(tokens[: self._context_tokens]), tuple(tokens[self._context_tokens :]))]

    def judge(self, index: int, answers: Sequence[Answer]) -> SegmentItem:
        (answer,) = answers
        return SegmentItem(
            index=index,
            negative_log_likelihood=finite_or_none(-answer.log_likelihood),
            tokens=self._segments.shape[1] - self._context_tokens,
        )

    def summarise(self, items: Sequence[SegmentItem]) -> Summary:
        losses = [
            item.negative_log_likelihood / item.tokens for item in items if item.negative_log_likelihood is not None
        ]
        if not losses or statistics.fmean(losses) > LARGEST_EXPONENT:
            raise no_likelihood()
        loss = statistics.fmean(losses)
        metrics = {"perplexity": math.exp(loss), "nats_per_token": loss}
        if (error := standard_error(losses)) is not None:
            metrics |= {"perplexity_stderr": math.exp(loss) * error, "nats_per_token_stderr": error}
        excluded = {NOT_FINITE: len(items) - len(losses)} if len(losses) < len(items) else {}
        return Summary(metrics=metrics, scored=len(losses), excluded=excluded)


def prepare_segments(
    task: PerplexityTask, rows: Mapping[str, Sequence[Row]], facts: "ModelFacts", *, limit: int | None
) -> PreparedSegments:
    """See `harness.evaluation.definitions.prepare`."""
    length = task.sequence_length or facts.context_length
    if length > facts.context_length:
        raise Unsupported(
            Reason.SHAPE,
            f"{task.name} has segments of {length} tokens, the model takes {facts.context_length}",
            hint="choose the task with shorter segments, and keep it for every model that is compared",
        )
    encoder = TextEncoder(facts)
    beginning = _beginning_of_each(task, encoder)
    text = "\n\n".join(_texts(task, rows[task.split]))
    (tokens,) = encoder.encode([text], special=task.beginning == "text")
    segments = cut_segments(tokens, length - len(beginning))
    if len(segments) == 0:
        raise MissingData(
            f"{task.dataset}/{task.split} is shorter than one segment of {length} tokens: it has {len(tokens)}",
            hint="fetch the whole data set, or choose the task with shorter segments",
        )
    details = ProtocolDetails(scoring="segments", beginning_token=encoder.beginning_token, sequence_length=length)
    return PreparedSegments(
        with_beginning(segments[:limit], beginning),
        details,
        available=len(segments),
        context_tokens=max(len(beginning), 1),
        notes=_note_omitted(task, encoder),
    )


def _beginning_of_each(task: PerplexityTask, encoder: TextEncoder) -> tuple[int, ...]:
    """What stands before every segment; nothing where the text alone has a beginning.

    Raises:
        Unsupported: there is nothing that could stand there.
    """
    if task.beginning == "text":
        return ()
    if len(encoder.beginning_tokens) != 1:
        raise Unsupported(
            Reason.TASK,
            f"{task.name} puts one token before each segment, and the tokenizer puts "
            f"{len(encoder.beginning_tokens) or 'none'} before a text",
            hint=f"take {task.stands_for or 'the task without'} for this model",
        )
    return encoder.beginning_tokens


def _note_omitted(task: PerplexityTask, encoder: TextEncoder) -> tuple[str, ...]:
    if task.beginning == "segment" or encoder.beginning_token is None:
        return ()
    return (
        f"segments after the first have no {encoder.beginning_token!r} before them, which the tokenizer puts before "
        f"every text ({task.protocol}, as the published code has it; {task.protocol}-bos has it before each)",
    )


def with_beginning(segments: Tokens, beginning: tuple[int, ...]) -> Tokens:
    """Segments int32 [segments, length] with the same tokens before each: [segments, len(beginning) + length]."""
    before = np.tile(np.asarray(beginning, dtype=np.int32), (len(segments), 1))
    return np.concatenate([before, segments], axis=1)


def cut_segments(tokens: Tokens, length: int) -> Tokens:
    """Segments int32 [segments, length] of tokens int32 [n], without overlap; the remainder is dropped."""
    count = len(tokens) // length
    return tokens[: count * length].reshape(count, length)


def _texts(task: PerplexityTask, rows: Sequence[Row]) -> list[str]:
    texts = read_texts(task.dataset, task.split, rows, task.text_field)
    return list(dict.fromkeys(text for text in texts if text.strip())) if task.distinct else texts


def read_texts(dataset: str, split: str, rows: Sequence[Row], field: str = "text") -> list[str]:
    """The text of each row.

    Raises:
        BadRequest: a row has none.
    """
    for place, row in enumerate(rows):
        if not isinstance(row.get(field), str):
            raise BadRequest(
                f"row {place} of {dataset}/{split} has no text in its field {field!r}",
                hint="name a data set with a text field, or fetch it again",
            )
    return [row[field] for row in rows]


def no_likelihood() -> BadCheckpoint:
    return BadCheckpoint(
        "the model gives no finite likelihood to the text: its weights or activations overflow",
        hint="evaluate in float32 (parameter dtype); if that does not help, the checkpoint itself is broken",
    )
