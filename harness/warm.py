"""`python -m harness.warm FD`: imports once what several pieces of work need, and forks a worker for each.

Covered: everything that makes a fork what `python -m harness` would be. Its streams, variables, folder, session and the
mark that it is found by are its own, and it begins with what this process has imported and with nothing else, since
importing is all that this process does. Not covered: whose work may be done so, which the orchestrator decides.

FD is a socket; `harness.contract.warm` has what is said over it. This process ends, and its worker with it, when the
other end closes.
"""

import ast
import ctypes
import importlib
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.contract.warm import ANSWERED, ASKED, MESSAGE_BYTES, Begun, Ended, Order, Reaped, Refused
from harness.serve import main as serve_one

NEVER_BEGUN = 70
"""The exit status of a fork that could not be made a worker."""
_STREAMS = 3
_PR_SET_PDEATHSIG = 1
_ENV_START = 47
"""Among the fields of /proc/<pid>/stat that follow the name: where the variables lie that the process began with."""
_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)


def main(descriptor: int) -> int:
    """Obey orders, one after the other, until nobody gives them. In a worker, serve its request.

    Returns the exit status.
    """
    with socket.socket(fileno=descriptor) as orchestrator:
        while True:
            message, streams, _, _ = socket.recv_fds(orchestrator, MESSAGE_BYTES, _STREAMS)
            if not message:
                return 0
            order = ASKED.validate_json(message)
            assert isinstance(order, Order)  # noqa: S101  the other one follows the end of a worker, below
            preload(order.modules)
            if (reason := why_unsafe()) is not None:
                _say(orchestrator, Refused(reason=reason))
                return 1
            server, worker = os.getpid(), os.fork()
            if worker == 0:
                _become(order, streams, server)
                _say(orchestrator, Begun(pid=os.getpid()))
                break
            for stream in streams:
                os.close(stream)
            if not _see_to_its_end(worker, orchestrator):
                return 0
    return serve_one()


def preload(modules: Sequence[str]) -> None:
    """Import modules of the harness, and of other libraries what they import anywhere.

    What cannot be imported is passed over: the worker that needs it will say so.
    """
    for name in modules:
        if name in sys.modules and name in _PRELOADED:
            continue
        _PRELOADED.add(name)
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for wanted in _imports(Path(str(module.__file__))):
            if wanted.partition(".")[0] != __package__:
                _import(wanted)


_PRELOADED: set[str] = set()


def _imports(path: Path) -> Iterator[str]:
    """The dotted names of modules, and of what is taken from them, that a file can import when it is at work."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            pending += (one for one in ast.iter_child_nodes(node) if isinstance(one, _STATEMENTS))


def _import(name: str) -> None:
    """Import a module, or what is taken from one: some load that when it is first asked for."""
    above, _, last = name.rpartition(".")
    try:
        if not above or not hasattr(importlib.import_module(above), last):
            importlib.import_module(name)
    except ImportError:
        return


def why_unsafe() -> str | None:
    """Why a fork of this process would be another than a fresh one; None if it would not.

    OpenBLAS ends its threads before a fork by itself, so one is tried before threads are counted.
    """
    trial = os.fork()
    if trial == 0:
        os._exit(0)
    os.wait4(trial, 0)  # as for workers: it imports a module when it is first called
    if (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        return f"what it imports has started {threads - 1} thread(s), which a fork does not have"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "what it imports has opened a GPU, which a fork cannot use"
    return None


def _become(order: Order, streams: Sequence[int], server: int) -> None:
    """Make this fork a worker, which does not outlive the server; or end it."""
    try:
        os.setsid()
        if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != server:
            os._exit(NEVER_BEGUN)
        _show(order.mark, order.variables[order.mark])
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(order.variables)
        tempfile.tempdir = None
        os.chdir(order.folder)
    except BaseException:  # noqa: BLE001  a fork that is half a worker must do nothing at all
        os._exit(NEVER_BEGUN)


def _show(variable: str, value: str) -> None:
    """Have /proc/<pid>/environ show another value, as long as the one that this process was started with.

    Raises:
        ValueError: the variable is not there, or its value has another length.
    """
    shown = b"\0" + Path("/proc/self/environ").read_bytes()
    begin = shown.index(f"\0{variable}=".encode()) + len(variable) + 2
    if shown.index(b"\0", begin) - begin != len(value.encode()):
        raise ValueError(f"{variable} has another length")
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(int(fields[_ENV_START]) + begin - 1)
        memory.write(value.encode())


def _see_to_its_end(worker: int, orchestrator: socket.socket) -> bool:
    """Tell of the worker's end, and reap it when asked to. False when nobody is there any more."""
    watched, poll = os.pidfd_open(worker), select.poll()
    try:
        poll.register(orchestrator, select.POLLIN)
        poll.register(watched, select.POLLIN)
        # Until a worker has ended, all that can come is the end of the socket.
        if any(ready == orchestrator.fileno() for ready, _ in poll.poll()):
            return False
    finally:
        os.close(watched)
    _say(orchestrator, Ended())
    if not orchestrator.recv(MESSAGE_BYTES):
        return False
    _, status, usage = os.wait4(worker, 0)
    _say(orchestrator, Reaped(status=status, peak_memory_bytes=usage.ru_maxrss * 1024))
    return True


def _say(orchestrator: socket.socket, message: Begun | Ended | Reaped | Refused) -> None:
    orchestrator.send(ANSWERED.dump_json(message))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
