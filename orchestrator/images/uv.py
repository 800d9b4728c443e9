"""Calls of `uv`, the resolver and installer that the orchestrator depends on."""

import re
import subprocess
from collections.abc import Sequence

from orchestrator.errors import RuntimeUnavailable
from orchestrator.host.narrated import Say, run_narrated
from orchestrator.images.package_sources import PackageSources

_TAIL_LINES = 12
_MOST_SECONDS = 3600.0


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
    silence_seconds: int | None = None,
    say: Say | None = None,
) -> str:
    """Run uv and return its stdout. `say`: see `run_narrated`.

    With `silence_seconds` a source that says nothing for so long is given up, and asked once; None leaves that to uv.

    Raises:
        UvFailed: uv refused, or took an hour.
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
            environment=sources.uv_environment() | _patience(silence_seconds),
            timeout_seconds=_MOST_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        raise UvFailed(f"uv did not finish within {_MOST_SECONDS:.0f} s") from late
    if done.returncode != 0:
        raise UvFailed("\n".join(done.stderr.strip().splitlines()[-_TAIL_LINES:]))
    return done.stdout


def _patience(silence_seconds: int | None) -> dict[str, str]:
    if silence_seconds is None:
        return {}
    bounds = dict.fromkeys(("UV_HTTP_TIMEOUT", "UV_HTTP_CONNECT_TIMEOUT"), str(silence_seconds))
    return bounds | {"UV_HTTP_RETRIES": "0"}
