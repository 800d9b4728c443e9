"""The second-order statistic of SparseGPT and GPTQ: the Hessian of a linear's squared output error."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.architectures.blocks import LinearGroup
from harness.errors import BadCheckpoint, WorkerError

_LARGEST_DAMPING = 1.0
_DAMPING_STEP = 10.0
_SMALLEST_RAISED_DAMPING = 0.01
_PANELS = 4
_SMALL_TRIANGLE = 128


class Hessian:
    """H = 2/n · Σ XᵀX over n sequences, float32 [in_features, in_features], kept as a running mean.

    H is symmetric, so only panels of rows from the diagonal to the right are summed up: five eighths of the products.
    """

    def __init__(self, group: LinearGroup, device: torch.device) -> None:
        self._sum = torch.zeros(group.in_features, group.in_features, dtype=torch.float32, device=device)
        self._sequences = 0

    def add(self, inputs: Tensor, sequences: int) -> None:
        before = self._sequences
        self._sequences += sequences
        inputs = exact_factor(inputs)
        for start, stop in self._panels():
            panel = self._sum[start:stop, start:]
            left, right = inputs[:, start:stop].T, inputs[:, start:]
            add_product(panel, left, right, beta=before / self._sequences, alpha=2 / self._sequences)

    @property
    def matrix(self) -> Tensor:
        for start, stop in self._panels():
            self._sum[stop:, start:stop] = self._sum[start:stop, stop:].T
        return self._sum

    def _panels(self) -> Iterator[tuple[int, int]]:
        size = len(self._sum)
        width = -(-size // _PANELS)
        return ((start, min(start + width, size)) for start in range(0, size, width))


def exact_factor(inputs: Tensor) -> Tensor:
    """`inputs` in a dtype in which `add_product` takes them: half precision on CUDA, else float32."""
    half = inputs.dtype in (torch.float16, torch.bfloat16)
    return inputs if inputs.is_cuda and half else inputs.to(torch.float32)


def add_product(total: Tensor, left: Tensor, right: Tensor, *, beta: float, alpha: float) -> None:
    """total = beta · total + alpha · left @ right in place, `total` float32; the factors are `exact_factor`s.

    Tensor cores multiply half-precision factors without rounding and add up in float32.
    """
    if left.dtype == torch.float32:
        total.addmm_(left, right, beta=beta, alpha=alpha)
    else:
        torch.addmm(total, left, right, out_dtype=torch.float32, beta=beta, alpha=alpha, out=total)


@dataclass(frozen=True)
class InverseFactor:
    """U, upper triangular with H⁻¹ = UᵀU, as its `diagonal` and as `unit`, which is U with each row divided by its own.

    Both float32: [in_features] and [in_features, in_features]. `dead`: bool, inputs that were always zero. `damping`
    is the share of the mean diagonal that was added to H, larger than asked where H was not positive enough.
    """

    unit: Tensor
    diagonal: Tensor
    dead: Tensor
    damping: float


def factor_inverse(group: LinearGroup, hessian: Tensor, damping: float) -> InverseFactor:
    """Upper Cholesky factor of the inverse of the damped Hessian (SparseGPT, Algorithm 1; GPTQ, Algorithm 1).

    With rows and columns in reverse, H has a lower factor L. Reversed again it is upper triangular, with H = L Lᵀ, so
    U is its inverse: no need to invert H itself. Where the factorisation fails, the damping is raised tenfold (from at
    least 0.01) until it works, up to 1.

    Raises:
        BadCheckpoint: the Hessian holds NaN or an infinity.
        WorkerError: the factorisation fails even at the largest damping.
    """
    name = group.linears[0].name
    dead = hessian.diagonal() == 0
    reverse = hessian.flip(0, 1)
    reverse.diagonal().add_(dead.flip(0))
    mean = reverse.diagonal().mean()
    added = 0.0
    while True:
        reverse.diagonal().add_((damping - added) * mean)
        added = damping
        lower, failed = torch.linalg.cholesky_ex(reverse)
        upper = _invert_upper(lower.flip(0, 1), torch.zeros_like(lower))
        # An input that is not finite shows in its diagonal entry; a sum is several times as quick as a look at each.
        checks = torch.isfinite(reverse.diagonal()).all(), (failed == 0) & torch.isfinite(upper.sum())
        finite, works = torch.stack(checks).tolist()
        if not finite:
            raise BadCheckpoint(
                f"the inputs of {name} hold NaN or infinity on the calibration text",
                hint="evaluate the dense checkpoint: it may overflow in its dtype, or be damaged",
            )
        if works:
            diagonal = upper.diagonal().clone()
            return InverseFactor(upper.div_(diagonal.unsqueeze(1)), diagonal, dead, damping)
        if damping >= _LARGEST_DAMPING:
            raise WorkerError(
                f"the Hessian of {name} cannot be factorised, even with damping {damping:g}",
                hint="use more calibration samples or another calibration set",
            )
        damping = min(max(damping * _DAMPING_STEP, _SMALLEST_RAISED_DAMPING), _LARGEST_DAMPING)


def damping_notes(group: LinearGroup, factor: InverseFactor, asked: float) -> tuple[str, ...]:
    """Says that the damping was raised, if it was."""
    if factor.damping <= asked:
        return ()
    return (
        f"{group.linears[0].name}: damping raised from {asked:g} to {factor.damping:g}, "
        "since the Hessian was not positive definite",
    )


def _invert_upper(triangle: Tensor, inverse: Tensor) -> Tensor:
    """Fill `inverse`, zero so far, with the inverse of an upper triangular matrix, by way of its diagonal halves."""
    size = len(triangle)
    if size <= _SMALL_TRIANGLE:
        identity = torch.eye(size, dtype=triangle.dtype, device=triangle.device)
        return inverse.copy_(torch.linalg.solve_triangular(triangle, identity, upper=True))
    half = size // 2
    first = _invert_upper(triangle[:half, :half], inverse[:half, :half])
    second = _invert_upper(triangle[half:, half:], inverse[half:, half:])
    inverse[:half, half:] = first @ (triangle[:half, half:] @ second).neg_()
    return inverse
