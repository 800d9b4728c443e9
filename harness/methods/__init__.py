"""Compression methods, one file each. `run` performs a compress request."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.contract import CompressRequest, CompressResult
    from harness.reporter import Reporter


def run(request: "CompressRequest", reporter: "Reporter") -> "CompressResult":
    """Compress the checkpoint in the input `checkpoint` into `<output>/artifact`.

    Raises:
        WorkerError: the work cannot be done, for the reason that the class and message give.
    """
    from harness.methods.job import compress

    return compress(request, reporter)
