"""Which of some scores are the smallest: the choices of the pruning methods. Of equal scores the first counts as less.

Every function gives the same mask on every device; only the way there differs, since sorting is slow on a CPU.
"""

import numpy as np
import torch
from torch import Tensor

_FEW = 8


def smallest_of_rows(scores: Tensor, count: int) -> Tensor:
    """True at the `count` smallest scores of each row: `scores` is float32 [rows, columns]."""
    if scores.is_cuda:
        return smallest_by_sorting(scores, count, dim=1)
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    ranked = np.partition(scores.numpy(), count - 1, axis=1)  # twenty times as fast as sorting
    threshold = torch.from_numpy(ranked[:, count - 1 : count])
    mask = scores <= threshold
    surplus = mask.sum(dim=1, keepdim=True) - count
    if bool(surplus.any()):
        ties = scores == threshold
        mask &= ~(ties & (ties.cumsum(dim=1) > ties.sum(dim=1, keepdim=True) - surplus))
    return mask


def smallest_of_groups(scores: Tensor, count: int, length: int) -> Tensor:
    """True at the `count` smallest of each `length` consecutive scores of a row, which `length` divides."""
    groups = scores.reshape(-1, length).T.contiguous()
    return smallest_of_columns(groups, count).T.reshape(scores.shape)


def smallest_of_columns(scores: Tensor, count: int) -> Tensor:
    """True at the `count` smallest scores of each column: `scores` is [a few, columns]."""
    if scores.is_cuda or len(scores) > _FEW:
        return smallest_by_sorting(scores, count, dim=0)
    length = len(scores)
    rank = torch.arange(length - 1, -1, -1, dtype=torch.uint8).unsqueeze(1).repeat(1, scores.shape[1])
    for first in range(length):
        for second in range(first + 1, length):
            comes_first = (scores[first] <= scores[second]).view(torch.uint8)
            rank[second] += comes_first
            rank[first] -= comes_first
    return rank < count


def smallest_by_sorting(scores: Tensor, count: int, dim: int) -> Tensor:
    """True at the `count` smallest scores along `dim`."""
    first = scores.sort(dim=dim, stable=True).indices.narrow(dim, 0, count)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(dim, first, value=True)


def up_to_rank(scores: Tensor, rank: int) -> Tensor:
    """True at every score that is not above the one at `rank` (from 0) of them all in ascending order."""
    flat = scores.flatten()
    if scores.is_cuda:
        return scores <= flat.sort().values[rank]
    return scores <= float(np.partition(flat.numpy(), rank)[rank])
