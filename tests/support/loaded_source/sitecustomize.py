"""Writes down what of the harness this process, and each Python process that it starts, loads. Python runs it at start.

`LLMCBENCH_TEST_LOADED` names the file: a line for each module that is looked for to be imported, and for each file
below the harness that is opened and is no Python. What `harness.contract.source` reads, to know it, does not count.
"""

import os
import sys
from pathlib import Path
from types import FrameType

ROOT = os.environ["LLMCBENCH_TEST_ROOT"]
HARNESS = f"{ROOT}/harness/"


class _Finder:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "harness":
            _write(name)


def _opened(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not isinstance(arguments[0], str):
        return
    path = str(Path(arguments[0]).absolute())
    is_data = path.startswith(HARNESS) and not path.endswith((".py", ".pyc")) and "__pycache__" not in path
    if is_data and not _for_the_digest(sys._getframe()):
        _write(path.removeprefix(f"{ROOT}/"))


def _for_the_digest(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.endswith("harness/contract/source.py"):
            return True
        frame = frame.f_back
    return False


def _write(line: str) -> None:
    if path := os.environ.get("LLMCBENCH_TEST_LOADED"):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)


sys.meta_path.insert(0, _Finder)
sys.addaudithook(_opened)
