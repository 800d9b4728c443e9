"""A worker that misbehaves as its request says. Standard library only: it has none of the harness's good manners."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from survey import breed, survey  # beside this file, wherever it runs

MEBIBYTE = 2**20
Request = dict[str, object]


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.environ.get("DEAF"):
        finish("never read stdin", None)
    request = json.loads(sys.stdin.buffer.read())
    task = request["parameters"].get("task") or request["parameters"]["source"]["name"]
    BEHAVIOURS[task.partition(":")[0]](request)


def finish(message: str, request: Request | None) -> None:
    """Answer as the contract wants: one final event, the same in result.json, the matching exit status."""
    publish(final(message, request), request)
    os._exit(3)


def final(message: str, request: Request | None) -> str:
    identity = request["id"] if request else None
    event = {"event": "error", "contract": 1, "id": identity, "code": "unsupported", "reason": "task"}
    return json.dumps(event | {"message": message, "hint": "none"})


def publish(line: str, request: Request | None) -> None:
    if request:
        Path(str(request["output"]), "result.json").write_text(line)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def garbage(request: Request) -> None:
    os.write(1, b"WARNING: a C library speaks its mind\n")
    time.sleep(600)


def twice(request: Request) -> None:
    publish(final("first", request), request)
    finish("second", request)


def hang(request: Request) -> None:
    say_started(request)
    time.sleep(600)


def hang_politely(request: Request) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    hang(request)


def say_started(request: Request) -> None:
    sys.stdout.write(json.dumps({"event": "started", "id": request["id"], "operation": request["operation"]}) + "\n")
    sys.stdout.flush()


def devour(request: Request) -> None:
    held = []
    while True:
        held.append(os.urandom(MEBIBYTE) * 16)
        time.sleep(0.02)


def hold(request: Request) -> None:
    block = os.urandom(MEBIBYTE) * 200
    time.sleep(0.3)
    finish(f"held {len(block)}", request)


def leave_grandchild(request: Request) -> None:
    if os.fork() == 0:
        os.setsid()
        Path(str(request["output"]), "grandchild").write_text(str(os.getpid()))
        time.sleep(600)
    while not Path(str(request["output"]), "grandchild").exists():
        time.sleep(0.01)
    finish("left one behind", request)


def leave_link(request: Request) -> None:
    Path(str(request["output"]), "artifact").symlink_to("/etc")
    finish("linked", request)


def die(request: Request) -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


def close_output(request: Request) -> None:
    os.close(1)
    os.close(2)
    time.sleep(0.5)
    os._exit(0)


def devour_in_a_child(request: Request) -> None:
    if os.fork() == 0:
        devour(request)
    os.wait()


def stay(request: Request) -> None:
    say_started(request)
    publish(final("stays", request), request)
    time.sleep(600)


def flood(request: Request) -> None:
    while True:
        os.write(1, b"x" * MEBIBYTE)


def fill(request: Request) -> None:
    with Path(str(request["output"]), "artifact").open("wb") as file:
        while True:
            file.write(b"x" * MEBIBYTE)
            file.flush()
            time.sleep(0.001)


def bury_scratch(request: Request) -> None:
    inside = os.open(os.environ["HOME"], os.O_RDONLY)
    for _ in range(2100):
        os.mkdir("d", dir_fd=inside)
        below = os.open("d", os.O_RDONLY, dir_fd=inside)
        os.close(inside)
        inside = below
    finish("buried", request)


def write_beside(request: Request) -> None:
    """Try to change what is not the worker's: the attempt's folder, and what it was given to read."""
    places = [Path(str(request["output"])).parent / "beside", *Path(str(request["output"])).parent.glob("*.json")]
    finish(",".join(place.name for place in places if can_write(str(place))), request)


def shout(request: Request) -> None:
    for _ in range(5):
        os.write(2, b"x" * MEBIBYTE)
    finish("shouted", request)


def write_about(request: Request) -> None:
    places = ["/forbidden", "/usr/bin/forbidden", "/opt/llmcbench/forbidden"]
    places += [f"{folder}/forbidden" for folder in dict(request["inputs"]).values()]  # type: ignore[call-overload]
    finish(
        ",".join(place for place in [*places, "/tmp/allowed", f"{request['output']}/allowed"] if can_write(place)),
        request,
    )


def can_write(place: str) -> bool:
    try:
        Path(place).write_text("was here")
    except OSError:
        return False
    return True


def show_self(request: Request) -> None:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    seen = {
        "uid": os.getuid(),
        "capabilities": int(status["CapEff"], 16),
        "no_new_privileges": status["NoNewPrivs"],
        "interfaces": [name for _, name in socket.if_nameindex()],
        "environment": dict(os.environ),
    }
    finish(json.dumps(seen), request)


def look_about(request: Request) -> None:
    """Everything that `survey.py` tries; `task` says after a colon what of the host is tried."""
    asked = json.loads(str(request["parameters"]["task"]).partition(":")[2])  # type: ignore[index]
    inputs = dict(request["inputs"]).values()  # type: ignore[call-overload]
    finish(json.dumps(survey(asked, inputs, str(request["output"]))), request)


def tell_secrets(request: Request) -> None:
    """Say what the environment holds of secrets, wherever a worker can say something."""
    token, index = os.environ["HF_TOKEN"], os.environ["PIP_INDEX_URL"]
    for part in ("the token is ", token[:5], token[5:], f", the index {index}\n"):
        os.write(2, part.encode())
        time.sleep(0.01)
    log = {"event": "log", "level": "info", "message": f"logged in with {token}"}
    sys.stdout.write(json.dumps(log) + "\n")
    finish(f"401 for {token} at {index}", request)


BEHAVIOURS: dict[str, Callable[[Request], None]] = {
    "answer": lambda request: finish("answered", request),
    "large_answer": lambda request: finish("y" * 3_000_000, request),
    "large_request": lambda request: finish(str(len(request["parameters"]["task"])), request),  # type: ignore[index]
    "garbage": garbage,
    "twice": twice,
    "hang": hang,
    "hang_politely": hang_politely,
    "devour": devour,
    "hold": hold,
    "leave_grandchild": leave_grandchild,
    "leave_link": leave_link,
    "die": die,
    "close_output": close_output,
    "shout": shout,
    "devour_in_a_child": devour_in_a_child,
    "stay": stay,
    "flood": flood,
    "fill": fill,
    "bury_scratch": bury_scratch,
    "write_beside": write_beside,
    "write_about": write_about,
    "show_self": show_self,
    "tell_secrets": tell_secrets,
    "look_about": look_about,
    "breed": lambda request: finish(str(breed(100)), request),
}

if __name__ == "__main__":
    main()
