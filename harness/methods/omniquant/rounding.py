"""Rounding whole weights in training, again at every step: the elementwise work that dominates OmniQuant's time.

Two operations with gradients written out by hand, so that few passes over a weight suffice and little is kept for the
backward pass. In both, the value of a weight is w · columns[its input] · rows[its output], where the factors (those of
the equivalent transformation) may be absent. `Kernels` holds the passes themselves, compiled where that is possible.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_COMPILED_VARIANTS = 64
"""Kernels are compiled once for each dtype and each factor that is there or not: more often than torch expects."""

_COMPILER_FAULTS = (RuntimeError, ImportError, OSError, subprocess.SubprocessError)


def transformed(weight: Tensor, columns: Tensor | None, rows: Tensor | None, groups: int) -> Tensor:
    """The values [rows, groups, inputs of a group]; without factors in the dtype of the weight, else of the factors."""
    values = weight
    if columns is not None:
        values = values * columns
    if rows is not None:
        values = values * rows.unsqueeze(1)
    return values.view(len(weight), groups, -1)


def extremes(
    weight: Tensor, columns: Tensor | None, rows: Tensor | None, groups: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Largest and smallest value of each row and group, [rows, groups], and where in the group they stand."""
    values = transformed(weight, columns, rows, groups)
    largest, at_largest = values.max(-1)
    smallest, at_smallest = values.min(-1)
    return largest, smallest, at_largest, at_smallest


def rounded(
    weight: Tensor, columns: Tensor | None, rows: Tensor | None, scale: Tensor, zero: Tensor, levels: int
) -> Tensor:
    """The values as codes times their scale, [rows, inputs] in the dtype of `scale`, which is [rows, groups]."""
    codes = transformed(weight, columns, rows, scale.shape[1]) / scale.unsqueeze(-1)
    codes = codes.round_().clamp_(-zero.unsqueeze(-1), levels - zero.unsqueeze(-1))
    return codes.mul_(scale.unsqueeze(-1)).view(weight.shape)


def rounding_gradients(
    gradient: Tensor,
    weight: Tensor,
    columns: Tensor | None,
    rows: Tensor | None,
    scale: Tensor,
    zero: Tensor,
    levels: int,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """From the gradient of `rounded`, those of columns, rows and scale; rounding itself lets gradients through."""
    groups = scale.shape[1]
    ratios = transformed(weight, columns, rows, groups) / scale.unsqueeze(-1)
    nearest = ratios.round()
    codes = nearest.clamp(-zero.unsqueeze(-1), levels - zero.unsqueeze(-1))
    inside = codes == nearest
    gradient = gradient.view(ratios.shape).to(scale.dtype)
    of_scale = codes.sub_(ratios * inside).mul_(gradient).sum(-1)
    if columns is None and rows is None:
        return None, None, of_scale
    products = (gradient * inside).view(weight.shape) * weight
    of_columns = None if columns is None else (products.sum(0) if rows is None else rows @ products)
    of_rows = None if rows is None else (products.sum(1) if columns is None else products @ columns)
    return of_columns, of_rows, of_scale


@dataclass(frozen=True)
class Kernels:
    """The passes over a weight, as they are or compiled."""

    extremes: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = extremes
    rounded: Callable[..., Tensor] = rounded
    rounding_gradients: Callable[..., tuple[Tensor | None, Tensor | None, Tensor]] = rounding_gradients


def choose_kernels(device: torch.device, log: Callable[[str], None]) -> Kernels:
    """Compiled ones on a GPU, tried on a small weight, and the plain ones where the compiler does not work.

    On a CPU the plain ones, which give the same bits on every machine with the same instructions.
    """
    if device.type != "cuda":
        return Kernels()
    torch._dynamo.config.recompile_limit = _COMPILED_VARIANTS
    compiled = Kernels(
        extremes=torch.compile(extremes, dynamic=True),
        rounded=torch.compile(rounded, dynamic=True),
        rounding_gradients=torch.compile(rounding_gradients, dynamic=True),
    )
    try:
        _try(compiled, device)
    except _COMPILER_FAULTS as fault:
        first = next(iter(str(fault).strip().splitlines()), type(fault).__name__)
        log(f"weights are rounded without compiled kernels, which takes longer: {first}")
        return Kernels()
    return compiled


def _try(kernels: Kernels, device: torch.device) -> None:
    weight = torch.linspace(-1, 1, 64 * 64, device=device, dtype=torch.float16).view(64, 64)
    factors, scale = torch.ones(64, device=device), torch.full((64, 2), 0.1, device=device)
    kernels.extremes(weight, factors, factors, 2)
    values = kernels.rounded(weight, factors, factors, scale, scale, 15)
    kernels.rounding_gradients(values, weight, factors, factors, scale, scale, 15)


class Extremes(torch.autograd.Function):
    """(weight, columns, rows, groups, kernels) -> largest, smallest; the gradient goes to the weights they stand at."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, columns: Tensor | None, rows: Tensor | None, groups: int, kernels: Kernels
    ) -> tuple[Tensor, Tensor]:
        largest, smallest, at_largest, at_smallest = kernels.extremes(weight, columns, rows, groups)
        offsets = torch.arange(groups, device=weight.device) * (weight.shape[1] // groups)
        ctx.save_for_backward(weight, columns, rows, at_largest + offsets, at_smallest + offsets)
        return largest, smallest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None, Tensor | None, None, None]:
        weight, columns, rows, *places = ctx.saved_tensors
        at = torch.cat(places, dim=1)
        products = torch.cat(gradients, dim=1) * weight.gather(1, at)
        of_columns = of_rows = None
        if columns is not None:
            by_place = products if rows is None else products * rows.unsqueeze(1)
            of_columns = torch.zeros_like(columns).index_add_(0, at.flatten(), by_place.flatten())
        if rows is not None:
            of_rows = (products if columns is None else products * columns[at]).sum(1)
        return None, of_columns, of_rows, None, None


class Rounded(torch.autograd.Function):
    """(weight, columns, rows, scale, zero, levels, dtype, kernels) -> the rounded values [rows, inputs] in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        columns: Tensor | None,
        rows: Tensor | None,
        scale: Tensor,
        zero: Tensor,
        levels: int,
        dtype: torch.dtype,
        kernels: Kernels,
    ) -> Tensor:
        ctx.save_for_backward(weight, columns, rows, scale, zero)
        ctx.levels, ctx.kernels = levels, kernels
        return kernels.rounded(weight, columns, rows, scale, zero, levels).to(dtype)

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[None, Tensor | None, Tensor | None, Tensor, None, None, None, None]:
        (gradient,) = gradients
        of_factors = ctx.kernels.rounding_gradients(gradient.contiguous(), *ctx.saved_tensors, ctx.levels)
        return None, *of_factors, None, None, None, None
