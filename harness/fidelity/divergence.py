"""The Kullback-Leibler divergence of two next-token distributions, exact over the whole vocabulary.

With p and q the distributions of the dense model and of the other, and r = log q - log p, it is summed as

    sum p (e^r - 1 - r),

which is KL(p || q), since both sum to 1. No term is negative, equal logits give exactly 0, and what rounding a
log-softmax in float32 shifts all of its values by cancels: it enters in the second order. Terms are float32, their sum
float64. Where r > 30, e^r may overflow while p vanishes, and the term is taken as q - p (1 + r).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.evaluation.deployed import Likeliest

_LOGITS_BYTES = 128 * 2**20
_BLOCK_ROWS = 16
"""On a CPU: so many rows, and what is made of them, stay in the caches."""
_LARGE = 30.0
_LEAST_REST = 2.0**-20
"""What a sum of some twenty float32 probabilities may be off by: of a rest below that, no less is known."""

Head = Callable[[Tensor], Tensor]
"""From hidden states [n, hidden] to logits [n, vocabulary]."""


@dataclass(frozen=True)
class Compared:
    """Of n tokens: float64 divergences [n] in nats, whether both find the same token likeliest [n], and the float32
    log-likelihoods of the right token under the dense model and under the other [n]."""

    divergences: Tensor
    same_top: Tensor
    dense_right: Tensor
    right: Tensor

    @classmethod
    def joined(cls, parts: "list[Compared]") -> "Compared":
        names = cls.__dataclass_fields__
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@torch.inference_mode()
def compare(
    dense: tuple[Tensor, Head], other: tuple[Tensor, Head], targets: Tensor, *, vocabulary: int, rows: int | None = None
) -> Compared:
    """Hold `other` against `dense`: each is its last hidden states [n, hidden] and what makes logits of them.

    `targets` int64 [n] are the tokens that stand in the text. Both logits are made of as many rows at a time as 128 MiB
    hold in float32, or of `rows`.
    """
    rows = rows or max(1, _LOGITS_BYTES // (4 * vocabulary))
    (dense_states, dense_head), (states, head) = dense, other
    pieces = zip(*(torch.split(one, rows) for one in (dense_states, states, targets)), strict=True)
    parts = [compare_logits(dense_head(ours), head(theirs), right) for ours, theirs, right in pieces]
    return Compared.joined(parts)


def compare_logits(dense: Tensor, other: Tensor, targets: Tensor) -> Compared:
    """The same of logits [n, vocabulary]."""
    rows = len(dense) if dense.device.type == "cuda" else _BLOCK_ROWS
    blocks = zip(*(torch.split(one, rows) for one in (dense, other, targets)), strict=True)
    return Compared.joined([_compare_block(*block) for block in blocks])


@torch.inference_mode()
def compare_likeliest(dense: tuple[Tensor, Head], other: Likeliest, targets: Tensor, *, vocabulary: int) -> Compared:
    """Hold against `dense` what is known of the other's likeliest tokens, the right one among them.

    All tokens that are not known count as one, whose probability is what remains. Putting outcomes together never adds
    to a divergence, so that this is a lower bound of the whole one.
    """
    rows = max(1, _LOGITS_BYTES // (8 * vocabulary))
    states, head = dense
    pieces = zip(
        *(torch.split(one, rows) for one in (states, other.tokens, other.log_likelihoods, targets)), strict=True
    )
    return Compared.joined(
        [_compare_likeliest(head(ours), Likeliest(tokens, nats), right) for ours, tokens, nats, right in pieces]
    )


def _compare_likeliest(dense: Tensor, other: Likeliest, targets: Tensor) -> Compared:
    log_p = torch.log_softmax(dense, dim=-1, dtype=torch.float32).double()
    is_known, log_q = torch.isfinite(other.log_likelihoods), other.log_likelihoods
    known = log_p.gather(-1, other.tokens).masked_fill(~is_known, -math.inf)
    # The tokens that fill a row up are sent to a column that is not there.
    beside = torch.cat([log_p, log_p.new_full((len(log_p), 1), -math.inf)], dim=-1)
    rest = beside.scatter(-1, other.tokens.masked_fill(~is_known, log_p.shape[1]), -math.inf).logsumexp(dim=-1)
    has_rest = torch.isfinite(rest)
    other_rest = (1 - log_q.exp().sum(dim=-1)).clamp_(min=_LEAST_REST).log()
    divergences = _divergences(
        torch.cat([known.masked_fill(~is_known, 0.0), rest.masked_fill(~has_rest, 0.0)[:, None]], dim=-1),
        torch.cat([log_q.masked_fill(~is_known, 0.0), other_rest[:, None]], dim=-1),
        torch.cat([is_known, has_rest[:, None]], dim=-1),
    )
    at_top = (other.tokens == log_p.argmax(dim=-1, keepdim=True)) & is_known
    at_right = (other.tokens == targets[:, None]) & is_known
    return Compared(
        divergences=divergences,
        same_top=(at_top & (log_q == log_q.amax(dim=-1, keepdim=True))).any(dim=-1),
        dense_right=log_p.gather(-1, targets[:, None])[:, 0].float(),
        right=log_q.masked_fill(~at_right, -math.inf).amax(dim=-1).float(),
    )


def _compare_block(dense: Tensor, other: Tensor, targets: Tensor) -> Compared:
    log_p = torch.log_softmax(dense, dim=-1, dtype=torch.float32)
    log_q = torch.log_softmax(other, dim=-1, dtype=torch.float32)
    top = log_p.argmax(dim=-1, keepdim=True)
    right = targets[:, None]
    return Compared(
        divergences=_divergences(log_p, log_q),
        same_top=log_q.gather(-1, top)[:, 0] == log_q.amax(dim=-1),
        dense_right=log_p.gather(-1, right)[:, 0],
        right=log_q.gather(-1, right)[:, 0],
    )


def _divergences(log_p: Tensor, log_q: Tensor, counted: Tensor | None = None) -> Tensor:
    """Of each row, over the places that are `counted`, or over all."""
    ratio = log_q - log_p
    p = log_p.exp() if counted is None else log_p.exp() * counted
    terms = torch.expm1(ratio).sub_(ratio).mul_(p)
    if bool((ratio > _LARGE).any()):
        terms = torch.where(ratio > _LARGE, log_q.exp() - p * (1 + ratio), terms)
    return terms.clamp_(min=0).sum(dim=-1, dtype=torch.float64)
