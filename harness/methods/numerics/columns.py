"""Going through a matrix column by column, as SparseGPT and GPTQ do: settle one, and let later ones make up for it.

Weights are kept transposed here, [in_features, rows], so that the columns of the papers are contiguous. A column takes
in the errors of its predecessors when it is reached, instead of being updated at each of their steps: the same sums in
another order. With U = diagonal · unit (`InverseFactor` in `hessian.py`), the error of a column, w - q, is taken off
column j in proportion to unit[·, j]; divided by the diagonal it is the papers' scaled error.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Settle = Callable[[int, Tensor, Tensor], None]
"""(index, column, error): decide on a column, [rows], that is up to date, and write what it loses into `error`."""


def stack_transposed(weights: Sequence[Tensor]) -> Tensor:
    """Matrices [rows, in_features] that read the same inputs as one, float32 [in_features, all their rows]."""
    return torch.cat([weight.T.to(torch.float32) for weight in weights], dim=1)


def settle_columns(block: Tensor, unit: Tensor, step: int, decide: Callable[[int, int], Settle]) -> Tensor:
    """Settle a block of columns, [columns, rows], and return their errors, of the same shape.

    `step` columns at a time are brought up to date by one product; only then `decide(start, stop)` is asked how they
    are settled. The block is left with each column as it was when it was reached.
    """
    errors = torch.empty_like(block)
    for start in range(0, len(block), step):
        stop = min(start + step, len(block))
        if start:
            block[start:stop].addmm_(unit[:start, start:stop].T, errors[:start], alpha=-1)
        settle = decide(start, stop)
        for index in range(start, stop):
            if index > start:
                block[index].addmv_(errors[start:index].T, unit[start:index, index], alpha=-1)
            settle(index, block[index], errors[index])
    return errors


def compensate(matrix: Tensor, unit: Tensor, start: int, stop: int, errors: Tensor) -> None:
    """Take the errors of the columns `start` to `stop` off all later ones."""
    matrix[stop:].addmm_(unit[start:stop, stop:].T, errors, alpha=-1)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, the many small steps of a block cost less than waking the other threads for each of them."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
