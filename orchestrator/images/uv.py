"""Calls of `uv`, the resolver and installer that the orchestrator depends on."""

import re
import subprocess
from collections.abc import Sequence

from orchestrator.errors import RuntimeUnavailable
from orchestrator.host.narrated import Say, run_narrated
from orchestrator.images.package_sources import PackageSources

_TAIL_LINES = 12


class UvFailed(Exception):
    """uv ended with an error; the message is the end of what it printed, `summary` one line of it."""

    @property
    def summary(self) -> str:
        lines = [re.sub(r"^\W+", "", line) for line in str(self).splitlines()]
        return next((line for line in reversed(lines) if line), "no reason given")


def run_uv(
    arguments: Sequence[str],
    sources: PackageSources,
    *,
    timeout_seconds: float = 3600.0,
    retries: int | None = None,
    say: Say | None = None,
) -> str:
    """Run uv and return its stdout. `retries` of a failed request; None leaves it to uv. `say`: see `run_narrated`.

    Raises:
        UvFailed: uv refused, or took longer than the timeout.
        RuntimeUnavailable: uv is not installed.
    """
    from uv import find_uv_bin

    try:
        binary = find_uv_bin()
    except FileNotFoundError as missing:
        raise RuntimeUnavailable(
            "uv is not installed beside the orchestrator", hint="install the project's requirements again"
        ) from missing
    try:
        done = run_narrated(
            [binary, *arguments],
            "uv",
            say,
            environment=sources.uv_environment() | ({} if retries is None else {"UV_HTTP_RETRIES": str(retries)}),
            timeout_seconds=timeout_seconds,
        )
    except subprocess.TimeoutExpired as late:
        raise UvFailed(f"uv did not finish within {timeout_seconds:.0f} s") from late
    if done.returncode != 0:
        raise UvFailed("\n".join(done.stderr.strip().splitlines()[-_TAIL_LINES:]))
    return done.stdout
