"""Finds processes by a token in their environment, so that none escapes by leaving its process group.

A child inherits the variable whatever session it moves to. One that was started with a scrubbed environment is found by
its process group alone.
"""

import os
import signal
import time
from pathlib import Path

INVOCATION_VARIABLE = "LLMCBENCH_INVOCATION"
_ROUNDS = 20
_PAUSE_SECONDS = 0.02


def find_survivors(token: str) -> list[int]:
    """Ids of the live processes whose environment holds the token, the caller's own left out."""
    needle = f"{INVOCATION_VARIABLE}={token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # another user's, or gone meanwhile
        if needle in variables:
            found.append(int(entry.name))
    return found


def kill_survivors(token: str) -> int:
    """Kill what carries the token, until a look finds nothing more; returns how many processes that were."""
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        survivors = find_survivors(token)
        if not survivors:
            break
        for pid in survivors:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        time.sleep(_PAUSE_SECONDS)
    return len(killed)
