"""Profile: size, multiply-accumulates and memory of one checkpoint. The conventions are in `docs/protocols.md`."""

from harness.contract import ProfileRequest, ProfileResult
from harness.reporter import Reporter


def run(request: ProfileRequest, reporter: Reporter) -> ProfileResult:
    """Measure the checkpoint that the request names.

    Raises:
        Unsupported: the model cannot be loaded.
        BadRequest: an input is missing or not usable, or the lengths exceed the model's context.
    """
    from harness.profiling.profile import profile

    return profile(request, reporter)
