"""What the self-test asks of a result: each check can fail, and says what it saw."""

from collections.abc import Iterator

from harness.contract import BenchmarkParameters, BenchmarkResult, Speed
from orchestrator.checks.backends.record import Check, Outcome

SERVES = "loads and serves"
AGREEING_TOKENS = 8
"""Of the first tokens after the first prompt, so many must be the reference's: later ones may part at a near tie."""


def check_result(result: BenchmarkResult, asked: BenchmarkParameters) -> Iterator[Check]:
    """What one result can be held to by itself. The worker refuses another count of tokens than was asked for."""
    how = f"in {result.load_seconds:.1f} s, as {result.dtype.value}"
    yield Check(name=SERVES, outcome=Outcome.PASSED, message=how)
    yield _check(
        "exact count of tokens at every batch size",
        tuple(speed.batch_size for speed in result.speeds) == asked.batch_sizes,
        f"batches {', '.join(str(speed.batch_size) for speed in result.speeds)}, {asked.generate_tokens} tokens each",
    )
    yield _repeatable(result.speeds)
    yield _check(
        "speed of every repeat",
        all(len(speed.samples) == asked.repeats for speed in result.speeds),
        ", ".join(f"{one.decode_tokens_per_second:.0f} tokens/s at batch {one.batch_size}" for one in result.speeds),
    )
    memory = result.memory
    yield _check(
        "memory",
        memory.peak_memory_bytes > 0,
        f"peak {memory.peak_memory_bytes / 2**20:.0f} MiB ({memory.method})",
    )


def check_agreement(result: BenchmarkResult, reference: BenchmarkResult | None, absent: str) -> Check:
    """Whether the backend generates what the reference backend does; `absent` says why there is no `reference`."""
    name = "agrees with transformers"
    if reference is None:
        return Check(name=name, outcome=Outcome.NOT_APPLICABLE, message=absent)
    ours, theirs = result.speeds[0].greedy_tokens, reference.speeds[0].greedy_tokens
    if not ours:
        message = f"{result.backend} returns text, not the numbers of the tokens"
        return Check(name=name, outcome=Outcome.NOT_APPLICABLE, message=message)
    pairs = list(zip(ours, theirs, strict=False))
    alike = next((place for place, (one, other) in enumerate(pairs) if one != other), len(pairs))
    return _check(
        name, alike >= AGREEING_TOKENS, f"the first {alike} of {len(ours)} tokens are alike, {AGREEING_TOKENS} must be"
    )


def _repeatable(speeds: tuple[Speed, ...]) -> Check:
    name = "greedy decoding repeats itself"
    if any(speed.repeatable is None for speed in speeds):
        return Check(name=name, outcome=Outcome.NOT_APPLICABLE, message="the backend does not say what it generated")
    differing = [str(speed.batch_size) for speed in speeds if not speed.repeatable]
    said = f"not at batch {', '.join(differing)}" if differing else f"{len(speeds[0].samples)} runs alike"
    return _check(name, not differing, said)


def _check(name: str, passed: bool, message: str) -> Check:
    return Check(name=name, outcome=Outcome.PASSED if passed else Outcome.FAILED, message=message)
