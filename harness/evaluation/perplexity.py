"""Perplexity `ppl/<data set>-<length>`: non-overlapping segments of one joined text, as the pruning papers take it.

The rows are joined with a blank line and tokenised once, with the special tokens that the tokenizer adds by itself (so
a beginning-of-sequence token stands at the very start only). The text is cut into segments of `sequence_length` tokens,
and the remainder dropped. In each segment every token but the first is predicted. The perplexity is the exponential of
the mean, over segments, of the mean negative log-likelihood of a predicted token.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.contract import Reason
from harness.errors import BadCheckpoint, BadRequest, MissingData, Unsupported
from harness.evaluation.catalog import PerplexityTask
from harness.evaluation.likelihood import TokenLikelihood, context_length
from harness.evaluation.outcomes import NOT_FINITE, Scored, SegmentItem, finite_or_none, standard_error

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

_LARGEST_EXPONENT = 700.0


def score_perplexity(
    task: PerplexityTask,
    rows: Sequence[Mapping[str, Any]],
    loaded: "LoadedModel",
    *,
    limit: int | None,
    batch_size: int,
    done: Callable[[int, int], None],
) -> Scored:
    """Perplexity of the first `limit` segments; `done` is told how many of them are finished.

    Raises:
        Unsupported: a segment is longer than the model's context.
        MissingData: the text is shorter than one segment.
        BadCheckpoint: the model gives no finite likelihood in any segment.
    """
    if task.sequence_length > context_length(loaded):
        raise Unsupported(
            Reason.SHAPE,
            f"{task.name} has segments of {task.sequence_length} tokens, the model takes {context_length(loaded)}",
            hint="choose the task with shorter segments, and keep it for every model that is compared",
        )
    available = cut_segments(_tokenise(rows, loaded), task.sequence_length)
    if len(available) == 0:
        raise MissingData(
            f"{task.dataset}/{task.split} is shorter than one segment of {task.sequence_length} tokens",
            hint="fetch the whole data set",
        )
    items = _score_segments(available[:limit], TokenLikelihood(loaded), batch_size, done)
    return _summarise(items, available=len(available))


def cut_segments(tokens: Tensor, length: int) -> Tensor:
    """Non-overlapping segments [segments, length] of int64 tokens [n]; the remainder is dropped."""
    count = len(tokens) // length
    return tokens[: count * length].reshape(count, length)


def _tokenise(rows: Sequence[Mapping[str, Any]], loaded: "LoadedModel") -> Tensor:
    try:
        text = "\n\n".join(row["text"] for row in rows)
    except (KeyError, TypeError) as unfit:
        raise BadRequest(
            f"a row of the data set has no text: {unfit!r}", hint="name a data set with a text field"
        ) from unfit
    return torch.tensor(loaded.tokenizer(text)["input_ids"], dtype=torch.int64)


def _score_segments(
    segments: Tensor, likelihood: TokenLikelihood, batch_size: int, done: Callable[[int, int], None]
) -> tuple[SegmentItem, ...]:
    items: list[SegmentItem] = []
    predicted = segments.shape[1] - 1
    done(0, len(segments))
    for batch in torch.split(segments, batch_size):
        hidden = likelihood.hidden(batch)[:, :-1].flatten(0, 1)
        tokens, _ = likelihood.of(hidden, batch[:, 1:].flatten())
        for total in tokens.double().reshape(len(batch), predicted).sum(dim=1).tolist():
            items.append(
                SegmentItem(index=len(items), negative_log_likelihood=finite_or_none(-total), tokens=predicted)
            )
        done(len(items), len(segments))
    return tuple(items)


def _summarise(items: tuple[SegmentItem, ...], *, available: int) -> Scored:
    losses = [item.negative_log_likelihood / item.tokens for item in items if item.negative_log_likelihood is not None]
    if not losses or statistics.fmean(losses) > _LARGEST_EXPONENT:
        raise BadCheckpoint(
            "the model gives no finite likelihood to the text: its weights or activations overflow",
            hint="evaluate in float32 (parameter dtype); if that does not help, the checkpoint itself is broken",
        )
    loss = statistics.fmean(losses)
    metrics = {"perplexity": math.exp(loss), "nats_per_token": loss}
    if (error := standard_error(losses)) is not None:
        metrics |= {"perplexity_stderr": math.exp(loss) * error, "nats_per_token_stderr": error}
    excluded = {NOT_FINITE: len(items) - len(losses)} if len(losses) < len(items) else {}
    return Scored(metrics=metrics, items=items, scored=len(losses), available=available, excluded=excluded)
