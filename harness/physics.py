"""What a device can do at most, measured where a figure was taken, and that the figure keeps to it.

A time can come out too short without a sign: work that went to another device, or was never started. So the rate that
it means is held against what the same process reaches on the same device doing nothing but that: reading a buffer of
the same size, multiplying matrices of the same dtype. Each measurement also checks what it computed.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.contract import BOUND_GRACE, Bound
from harness.contract.measurement import ENERGY_COUNTER_SECONDS
from harness.errors import Implausible

if TYPE_CHECKING:
    import torch

BYTES_PER_SECOND, OPERATIONS_PER_SECOND, JOULES = "bytes/s", "operations/s", "J"
_TRIES = 8
"""A rate that was measured beside other work is too low: it is taken again before a figure is refused for it."""
_PAUSE_SECONDS = 0.1
"""Doubled with each try: half a minute in all, which no figure that is possible waits for."""
_SAMPLES = 4
_LEAST_BYTES = 2**12
_MOST_BYTES = 2**29
"""Beyond any cache, a larger buffer is read no faster."""
_SAMPLE_BYTES = 2**28
_VALUE_BYTES = 4
_SIZES = {"cpu": (1024,), "cuda": (4096, 8192)}
"""Rows of the square matrices: large enough for the full rate, done in milliseconds."""
_QUEUED = 4
_TOLERANCE = 1e-3


def hold(of: str, implied: float, unit: str, measures: Sequence[Callable[[], float]], *, tries: int = _TRIES) -> Bound:
    """The bound of a figure that means the rate `implied`: the most that `measures` came to, tried again while less.

    Raises:
        Implausible: none came to so much.
    """
    possible = 0.0
    for attempt in range(tries):
        if attempt:
            time.sleep(_PAUSE_SECONDS * 2**attempt)
        for measure in measures:
            possible = max(possible, measure())
        bound = Bound(of=of, implied=implied, possible=possible, unit=unit)
        if bound.kept:
            return bound
    raise Implausible(
        f"{of}: the time that was measured means {implied:.4g} {unit}, and this device came to {possible:.4g} {unit} in"
        " the same process",
        hint=f"more than {BOUND_GRACE:.0%} beyond it is no measurement: the work was not done, or not on this device",
    )


def hold_energy(
    joules: float, seconds: float, *, limit_watts: float | None, idle_watts: float | None
) -> tuple[Bound, ...]:
    """The bounds of what a card took in `seconds`: no more than its limit allows, no less than idle.

    Raises:
        Implausible: it is outside of them.
    """
    bounds = []
    if limit_watts is not None:
        allowed = limit_watts * (seconds + ENERGY_COUNTER_SECONDS)
        bounds.append(hold("energy of the card under its power limit", joules, JOULES, [lambda: allowed], tries=1))
    if idle_watts is not None and seconds > ENERGY_COUNTER_SECONDS:
        least = idle_watts * (seconds - ENERGY_COUNTER_SECONDS)
        bounds.append(hold("energy of the idle card", least, JOULES, [lambda: joules], tries=1))
    return tuple(bounds)


def read_rate(device: "torch.device", size_bytes: int) -> float:
    """Bytes a second of reading a buffer of `size_bytes`, up to half a gigabyte: the best of a sum and of a product.

    On a CPU by the threads that torch uses. A buffer that fits a cache is read from there, as a model would be.

    Raises:
        Implausible: the device returns something else than the sum of what it was given.
    """
    import torch

    count = max(_LEAST_BYTES, min(size_bytes, _MOST_BYTES, _free_bytes(device) // 4)) // _VALUE_BYTES
    columns = min(count, 1024)
    buffer = torch.ones(count // columns, columns, device=device)
    ones = torch.ones(columns, device=device)
    times = max(1, min(64, _SAMPLE_BYTES // (buffer.numel() * _VALUE_BYTES)))
    reads: tuple[Callable[[], torch.Tensor], ...] = (buffer.sum, lambda: torch.mv(buffer, ones).sum())
    best = 0.0
    for read in reads:
        for _ in range(_SAMPLES):
            begin = time.perf_counter()
            total = float(torch.stack([read() for _ in range(times)]).mean())
            seconds = time.perf_counter() - begin
            _check(total, float(buffer.numel()))
            best = max(best, times * buffer.numel() * _VALUE_BYTES / seconds)
    return best


def product_rate(device: "torch.device", dtype: "torch.dtype") -> float:
    """Operations a second (two a multiplication) of the product of two square matrices of `dtype`, int8 among them.

    Raises:
        Implausible: the device returns something else than their product.
    """
    import torch

    integers = dtype is torch.int8
    best = 0.0
    for size in _SIZES[device.type]:
        if 12 * size**2 > _free_bytes(device) // 2:
            continue
        left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
        multiply = torch._int_mm if integers else torch.mm
        times = 1 if device.type == "cpu" else _QUEUED
        for _ in range(_SAMPLES):
            begin = time.perf_counter()
            corners = [multiply(left, right.t())[-1, -1].clone() for _ in range(times)]
            corner = float(torch.stack(corners).float().mean())
            seconds = time.perf_counter() - begin
            _check(corner, float(size))
            best = max(best, times * 2 * size**3 / seconds)
    return best


def uninterrupted_product_rate(dtype: "torch.dtype") -> float:
    """Operations a second of this process's threads, had each of them a processor for itself all the time.

    From the processor time of one of them, so that what else runs on the machine makes it no smaller: for figures that
    are taken while other work may run, whose best moment need not come again. No less than `product_rate`.

    Raises:
        Implausible: the processor returns something else than the product.
    """
    import torch

    size, threads = _SIZES["cpu"][0], torch.get_num_threads()
    left, right = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    best = 0.0
    torch.set_num_threads(1)
    try:
        for _ in range(_SAMPLES):
            begin = time.thread_time()
            corner = float(torch.mm(left, right.t())[-1, -1])
            seconds = time.thread_time() - begin
            _check(corner, float(size))
            best = max(best, threads * 2 * size**3 / seconds)
    finally:
        torch.set_num_threads(threads)
    return best


def _check(found: float, expected: float) -> None:
    if abs(found - expected) > _TOLERANCE * expected:
        raise Implausible(
            f"this device returned {found:g} for a sum of {expected:g} ones, so nothing that it computes counts",
            hint="run `orchestrator doctor`, and look at the driver's log",
        )


def _free_bytes(device: "torch.device") -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
