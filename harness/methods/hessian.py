"""The second-order statistic of SparseGPT and GPTQ: the Hessian of a linear's squared output error."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import BadCheckpoint, WorkerError
from harness.models.blocks import LinearGroup

_LARGEST_DAMPING = 1.0
_DAMPING_STEP = 10.0
_SMALLEST_RAISED_DAMPING = 0.01


class Hessian:
    """H = 2/n · Σ XᵀX over n sequences, float32 [in_features, in_features], kept as a running mean."""

    def __init__(self, group: LinearGroup, device: torch.device) -> None:
        self.matrix = torch.zeros(group.in_features, group.in_features, dtype=torch.float32, device=device)
        self._sequences = 0

    def add(self, inputs: Tensor, sequences: int) -> None:
        before = self._sequences
        self._sequences += sequences
        inputs = inputs.to(torch.float32)
        self.matrix.addmm_(inputs.T, inputs, beta=before / self._sequences, alpha=2 / self._sequences)


@dataclass(frozen=True)
class InverseFactor:
    """`upper`: U with H⁻¹ = UᵀU, float32 [in_features, in_features]. `dead`: bool, inputs that were always zero.

    `damping` is the share of the mean diagonal that was added to H, larger than asked where H was not positive enough.
    """

    upper: Tensor
    dead: Tensor
    damping: float


def factor_inverse(group: LinearGroup, hessian: Tensor, damping: float) -> InverseFactor:
    """Upper Cholesky factor of the inverse of the damped Hessian (SparseGPT, Algorithm 1; GPTQ, Algorithm 1).

    Where the factorisation fails, the damping is raised tenfold (from at least 0.01) until it works, up to 1.

    Raises:
        BadCheckpoint: the Hessian holds NaN or an infinity.
        WorkerError: the factorisation fails even at the largest damping.
    """
    name = group.linears[0].name
    if not bool(torch.isfinite(hessian).all()):
        raise BadCheckpoint(
            f"the inputs of {name} hold NaN or infinity on the calibration text",
            hint="evaluate the dense checkpoint: it may overflow in its dtype, or be damaged",
        )
    dead = hessian.diagonal() == 0
    living = hessian.clone()
    living.diagonal()[dead] = 1
    mean = living.diagonal().mean()
    while True:
        damped = living.clone()
        damped.diagonal().add_(damping * mean)
        upper = _inverse_upper(damped)
        if upper is not None:
            return InverseFactor(upper, dead, damping)
        if damping >= _LARGEST_DAMPING:
            raise WorkerError(
                f"the Hessian of {name} cannot be factorised, even with damping {damping:g}",
                hint="use more calibration samples or another calibration set",
            )
        damping = min(max(damping * _DAMPING_STEP, _SMALLEST_RAISED_DAMPING), _LARGEST_DAMPING)


def _inverse_upper(damped: Tensor) -> Tensor | None:
    lower, failed = torch.linalg.cholesky_ex(damped)
    if bool(failed):
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if bool(failed) or not bool(torch.isfinite(upper).all()):
        return None
    result: Tensor = upper
    return result
