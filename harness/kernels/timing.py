"""Microseconds of short GPU work: calls captured in one CUDA graph, so that no launch from the host is timed."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

_REPLAYS = 7
_L2_SHARES = 4


def copies_beyond_cache(held_bytes: int, device: torch.device) -> int:
    """How many copies of a weight to rotate over so that none is still in the second-level cache when it is read."""
    properties: Any = torch.cuda.get_device_properties(device)
    return max(2, -(-_L2_SHARES * int(properties.L2_cache_size) // held_bytes))


def microseconds_each(calls: Sequence[Callable[[], object]]) -> float:
    """Median over replays of the time of all calls in turn on the current CUDA device, divided by their number."""
    cuda: Any = torch.cuda
    side = cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    samples: list[float] = []
    for _ in range(_REPLAYS):
        begin, end = (cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(1000 * float(begin.elapsed_time(end)) / len(calls))
    return statistics.median(samples)
