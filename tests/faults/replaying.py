"""A worker that answers as it was recorded, in milliseconds: by the standard library alone.

    python -I -S replaying.py RECORDINGS MANNERS

Where the folder has no answer to a request, that is an internal error, which no run hides. The file MANNERS, where it
is there, has a line for each request that is to be answered in another way: the beginning of its key, and how.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST_SECONDS = 0.02
Request = dict[str, Any]


def key_of(request: Request) -> str:
    """What a request asks for, wherever its files lie: paths are told by their last part, which is a digest."""
    inputs = {name: Path(path).name for name, path in request["inputs"].items()}
    asked = {name: value for name, value in request.items() if name not in ("device", "output")}
    text = json.dumps(asked | {"inputs": inputs}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    request = json.loads(sys.stdin.buffer.read())
    key = key_of(request)
    recorded, output = Path(sys.argv[1]) / key, Path(request["output"])
    _say({"event": "started", "id": request["id"], "operation": request["operation"]})
    if not recorded.is_dir():
        _refuse(request, f"nothing was recorded for {request}")
    time.sleep(int(key[:4], 16) / 0xFFFF * LONGEST_SECONDS)
    shutil.copytree(recorded, output, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for line in _lines(Path(sys.argv[2])):
        begins, how = line.split(" ", 1)
        if key.startswith(begins):
            MANNERS[how](request, output)
    _answer(output)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _say(event: dict[str, object]) -> None:
    _print(json.dumps(event))


def _answer(output: Path) -> None:
    _print((output / "result.json").read_text(encoding="utf-8").rstrip("\n"))


def _refuse(request: Request, message: str) -> None:
    _say({"event": "error", "contract": 1, "id": request["id"], "code": "internal", "message": message, "hint": "none"})
    os._exit(5)


def _pipe_as_result(request: Request, output: Path) -> None:
    _answer(output)
    (output / "result.json").unlink()
    os.mkfifo(output / "result.json")
    os._exit(0)


def _result_is_a_link(request: Request, output: Path) -> None:
    _answer(output)
    (output / "result.json").rename(output / "elsewhere.json")
    (output / "result.json").symlink_to(output / "elsewhere.json")
    os._exit(0)


def _another_digit(request: Request, output: Path) -> None:
    """What it prints and what it writes differ."""
    text = (output / "result.json").read_text(encoding="utf-8")
    _answer(output)
    place = max(place for place, sign in enumerate(text) if sign.isdigit())
    (output / "result.json").write_text(text[:place] + str(9 - int(text[place])) + text[place + 1 :], encoding="utf-8")
    os._exit(0)


def _half_an_artifact(request: Request, output: Path) -> None:
    """A file of what it made is cut after it was described; where nothing was made, the items are."""
    made = [path for path in sorted((output / "artifact").glob("*")) if path.name != "llmcbench.json"]
    made += sorted(output.glob("items*"))
    if not made:
        _refuse(request, "it makes nothing")
    os.truncate(made[0], made[0].stat().st_size // 2)


def _artifact_is_a_link(request: Request, output: Path) -> None:
    if not (output / "artifact").is_dir():
        _refuse(request, "it makes nothing")
    (output / "artifact").rename(output / "elsewhere")
    (output / "artifact").symlink_to(output / "elsewhere")


def _garbage(request: Request, output: Path) -> None:
    os.write(1, b"Loading checkpoint shards: 100%\n\xff\xfe\x00")


def _twice(request: Request, output: Path) -> None:
    _answer(output)


def _nothing(request: Request, output: Path) -> None:
    os._exit(0)


def _wrong_status(request: Request, output: Path) -> None:
    _answer(output)
    os._exit(1)


def _lost_device(request: Request, output: Path) -> None:
    """As a library ends its process when the GPU is gone."""
    sys.stderr.write("CUDA error: unspecified launch failure (GPU is lost)\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGABRT)


def _out_of_memory(request: Request, output: Path) -> None:
    event = {"event": "error", "contract": 1, "id": request["id"], "code": "out_of_memory"}
    text = json.dumps(event | {"message": "32 GiB were asked for", "hint": "a smaller model"})
    (output / "result.json").write_text(text, encoding="utf-8")
    _print(text)
    os._exit(4)


def _leaves_a_child(request: Request, output: Path) -> None:
    """A process of its own session, which writes into the output for as long as it lives."""
    if os.fork() == 0:
        os.setsid()
        while True:
            time.sleep(0.05)
            with (output / "later").open("a", encoding="utf-8") as file:
                file.write("still here\n")


MANNERS: dict[str, Callable[[Request, Path], None]] = {
    "leaves a pipe as its result": _pipe_as_result,
    "leaves a link as its result": _result_is_a_link,
    "writes another figure than it prints": _another_digit,
    "cuts a file after describing it": _half_an_artifact,
    "leaves a link as its artifact": _artifact_is_a_link,
    "prints garbage": _garbage,
    "answers twice": _twice,
    "ends without an answer": _nothing,
    "answers and ends with another status": _wrong_status,
    "loses its device": _lost_device,
    "is out of memory": _out_of_memory,
    "leaves a process behind": _leaves_a_child,
}


if __name__ == "__main__":
    main()
