"""Which way a sparse layer multiplies a number of tokens: measured on the device, or a fixed guess without one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from harness.kernels.sparse.launch import (
    Launch,
    SparseWeight,
    candidates,
    dense_elements,
    expand,
    most_tokens,
    multiply,
)
from harness.kernels.sparse.two_four import TwoFourWeight
from harness.kernels.sparse.two_four import unpack as unpack_two_four
from harness.kernels.timing import copies_beyond_cache, microseconds_each

MEASURED_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)
_GUESSED_UP_TO = 16


class Path(StrEnum):
    """KERNEL reads the packed weight, EXPAND makes it dense for every call, CUSPARSELT holds a second packed copy.

    DENSE is the plain product with a dense weight: measured for comparison, never chosen.
    """

    KERNEL = "kernel"
    EXPAND = "expand"
    CUSPARSELT = "cusparselt"
    DENSE = "dense"


@dataclass(frozen=True)
class Timing:
    """The fastest launch of a path for a number of tokens; `launch` is None where the path has none to choose."""

    tokens: int
    path: Path
    microseconds: float
    launch: Launch | None = None


@dataclass(frozen=True)
class Choice:
    """How to multiply up to `tokens` tokens."""

    tokens: int
    path: Path
    launch: Launch | None = None


@dataclass(frozen=True)
class ChoiceTable:
    """Choices in rising order of tokens, what they were chosen from, and why a path was left out.

    `timings` is empty where nothing was measured.
    """

    choices: tuple[Choice, ...]
    timings: tuple[Timing, ...] = ()
    notes: tuple[str, ...] = ()

    def choose(self, tokens: int) -> Choice:
        """The first choice that covers `tokens`, else the last one."""
        return next((choice for choice in self.choices if tokens <= choice.tokens), self.choices[-1])

    def speed_up(self, tokens: int) -> float | None:
        """The dense product's time over that of the chosen path, at exactly `tokens`; None where not measured."""
        times = {timing.path: timing.microseconds for timing in self.timings if timing.tokens == tokens}
        chosen = self.choose(tokens).path
        return times[Path.DENSE] / times[chosen] if {Path.DENSE, chosen} <= times.keys() else None

    @property
    def needs_cusparselt(self) -> bool:
        return any(choice.path is Path.CUSPARSELT for choice in self.choices)


def guess(weight: SparseWeight) -> ChoiceTable:
    """Without a measurement: the kernel for up to 16 tokens, or as many as it takes, expansion beyond."""
    limit = min(_GUESSED_UP_TO, most_tokens(weight))
    kernel = tuple(
        Choice(tokens, Path.KERNEL, candidates(weight, tokens)[0]) for tokens in MEASURED_TOKENS if tokens <= limit
    )
    return ChoiceTable((*kernel, Choice(max(MEASURED_TOKENS), Path.EXPAND)), notes=("not measured",))


@torch.inference_mode()
def measure(
    weight: SparseWeight, *, tokens: Sequence[int] = MEASURED_TOKENS, cusparselt: bool = False, seed: int = 0
) -> ChoiceTable:
    """Time each path on the weight's CUDA device, over copies of the weight that do not fit into its cache together.

    `cusparselt` allows that path for a 2:4 weight; its packed copy comes on top of the kernels' own. The measurement
    itself holds a few hundred megabytes that are free again afterwards.
    """
    device = weight.device
    generator = torch.Generator(device).manual_seed(seed)
    inputs = [
        torch.randn(count, weight.in_features, generator=generator, device=device).to(weight.dtype)
        for count in sorted(tokens)
    ]
    timings = [*_time_kernels(weight, inputs), *_time_dense(weight, inputs)]
    notes: tuple[str, ...] = ()
    if cusparselt:
        found, notes = _time_cusparselt(weight, inputs)
        timings += found
    choices = []
    for x in inputs:
        offered = [timing for timing in timings if timing.tokens == x.shape[0] and timing.path is not Path.DENSE]
        best = min(offered, key=lambda timing: timing.microseconds)
        choices.append(Choice(best.tokens, best.path, best.launch))
    return ChoiceTable(_for_any_number(choices), tuple(timings), notes)


def semi_structured(weight: TwoFourWeight) -> Tensor:
    """The weight in torch's own 2:4 type, multiplied by cuSPARSELt. Raises RuntimeError or its kin where it cannot."""
    from torch.sparse import SparseSemiStructuredTensorCUSPARSELT

    return SparseSemiStructuredTensorCUSPARSELT.from_dense(unpack_two_four(weight))


def _for_any_number(choices: list[Choice]) -> tuple[Choice, ...]:
    """The last choice also covers more tokens than were measured, so it must not be the kernel, which has a limit."""
    if choices[-1].path is not Path.KERNEL:
        return tuple(choices)
    return (*choices, Choice(choices[-1].tokens + 1, Path.EXPAND))


def _time_kernels(weight: SparseWeight, inputs: list[Tensor]) -> list[Timing]:
    copies = [weight.clone() for _ in range(copies_beyond_cache(weight.held_bytes, weight.device))]
    timings = []
    for x in inputs:
        best = Timing(x.shape[0], Path.KERNEL, math.inf)
        for launch in candidates(weight, x.shape[0]):
            elapsed = microseconds_each([partial(multiply, copy, x, launch) for copy in copies])
            if elapsed < best.microseconds:
                best = Timing(x.shape[0], Path.KERNEL, elapsed, launch)
        timings += [] if best.launch is None else [best]
    scratch = torch.empty(dense_elements(weight), dtype=weight.dtype, device=weight.device)

    def expanded(copy: SparseWeight, x: Tensor) -> Tensor:
        return linear(x, expand(copy, scratch))

    for x in inputs:
        elapsed = microseconds_each([partial(expanded, copy, x) for copy in copies])
        timings.append(Timing(x.shape[0], Path.EXPAND, elapsed))
    return timings


def _time_dense(weight: SparseWeight, inputs: list[Tensor]) -> list[Timing]:
    scratch = torch.empty(dense_elements(weight), dtype=weight.dtype, device=weight.device)
    dense = expand(weight, scratch)
    copies = [dense.clone() for _ in range(copies_beyond_cache(dense.nbytes, dense.device))]
    return _time_products(copies, inputs, Path.DENSE)


def _time_cusparselt(weight: SparseWeight, inputs: list[Tensor]) -> tuple[list[Timing], tuple[str, ...]]:
    if not isinstance(weight, TwoFourWeight):
        return [], ("cuSPARSELt left out: it multiplies 2:4 weights alone",)
    try:
        count = copies_beyond_cache(weight.held_bytes, weight.device)
        copies = [semi_structured(weight) for _ in range(count)]
        return _time_products(copies, inputs, Path.CUSPARSELT), ()
    except (RuntimeError, NotImplementedError, ValueError) as refused:
        return [], (f"cuSPARSELt left out: {str(refused).splitlines()[0]}",)


def _time_products(copies: list[Tensor], inputs: list[Tensor], path: Path) -> list[Timing]:
    def timed(x: Tensor) -> Timing:
        calls: list[Callable[[], Any]] = [partial(linear, x, copy) for copy in copies]
        return Timing(x.shape[0], path, microseconds_each(calls))

    return [timed(x) for x in inputs]
