"""Benchmark: how fast a backend generates. The protocol is in `docs/protocols.md`."""

from harness.contract import BenchmarkRequest, BenchmarkResult
from harness.reporter import Reporter


def run(request: BenchmarkRequest, reporter: Reporter) -> BenchmarkResult:
    """Time the backend that the request names on the request's checkpoint.

    Raises:
        Unsupported: the backend is unknown, or cannot serve the checkpoint.
        BadRequest: an input is missing or not usable, or the lengths exceed the model's context.
    """
    from harness.backends.benchmark import benchmark

    return benchmark(request, reporter)
