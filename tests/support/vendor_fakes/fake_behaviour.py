"""How the stand-ins of `tensorrt_llm` and `mlc_llm` behave, from environment variables: a container obeys them too.

`FAKE_ENGINE` has names with commas: `noisy` writes to the real stdout from Python and from below it, `slow` takes a
second to start, `hang` never starts, `crash` ends the process in native code when it starts and `die` while it
generates, `short` generates one token less than asked, `prefixed` reads one prompt token more than given, `refuse` and
`memory` raise what the real library raises, `gpu` is a machine that has one, `no-flashinfer` one where FlashInfer
cannot be compiled. `FAKE_ENGINE_RECORD` names a file that gets one line of JSON for each thing that the stand-in was
asked.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SECONDS_A_TOKEN = 1000.0
_really = time.perf_counter
_seconds_passed = 0.0


def clock() -> float:
    return _really() + _seconds_passed


time.perf_counter = clock  # what the adapters read; the stand-ins are imported for one test, or in a worker of its own


def let_tokens_pass(count: int) -> None:
    """Takes no time but on that clock, where it is far more than any machine takes for the rest."""
    global _seconds_passed
    _seconds_passed += SECONDS_A_TOKEN * count


def asked(what: str) -> bool:
    return what in os.environ.get("FAKE_ENGINE", "").split(",")


def record(what: str, **seen: Any) -> None:
    if path := os.environ.get("FAKE_ENGINE_RECORD"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **seen}) + "\n")


def noise(text: str) -> None:
    if asked("noisy"):
        sys.stdout.write(f"[fake] {text}\n")
        sys.stdout.flush()
        os.write(1, f"[fake][INFO] {text}, from below Python\n".encode())


def start() -> None:
    noise("starting")
    if asked("slow"):
        time.sleep(1.0)
    if asked("hang"):
        time.sleep(600)
    if asked("crash"):
        os.abort()


def continuation(prompt: list[int], tokens: int, vocabulary: int = 97) -> list[int]:
    """Each token follows from all before it, so that a prompt with a part of its continuation has the rest of it."""
    text = list(prompt)
    for _ in range(tokens - (asked("short") and tokens > 1)):
        text.append((sum(text) * 31 + len(text) * 7) % vocabulary)
    return text[len(prompt) :]
