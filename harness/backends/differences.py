"""Prefill and decoding told apart where a library returns only when all tokens are there.

The same prompts are continued by one token, which is the prefill, and again by all: the difference is the decoding.
"""

from collections.abc import Callable
from dataclasses import dataclass

from harness.backends.base import Generated, TimedRun
from harness.errors import WorkerError


@dataclass(frozen=True)
class Batch:
    """What one call returned: each sequence's count of tokens, the wall seconds, and what it says that it generated."""

    counts: tuple[int, ...]
    seconds: float
    generated: tuple[Generated, ...]


def time_by_difference(
    library: str, generate: Callable[[int], Batch], *, batch_size: int, generate_tokens: int
) -> TimedRun:
    """`generate` continues the batch by as many tokens as it is given.

    Raises:
        WorkerError: the short run has another number of tokens, or the long one takes no longer than it.
    """
    first = generate(1)
    if first.counts != (1,) * batch_size:
        raise WorkerError(
            f"{library} generated {first.counts} tokens instead of one in each of {batch_size} sequences, so its"
            " prefill cannot be timed",
            hint=f"the installed {library} counts differently from the pinned one; use the image's lock",
        )
    whole = generate(generate_tokens)
    if whole.seconds <= first.seconds:
        raise WorkerError(
            f"{library} took {whole.seconds:.4f} s for {generate_tokens} tokens and {first.seconds:.4f} s for one,"
            " so their difference is no time",
            hint="leave the machine alone while timing, or generate more tokens",
        )
    return TimedRun(whole.counts, first.seconds, whole.seconds - first.seconds, generated=whole.generated)
