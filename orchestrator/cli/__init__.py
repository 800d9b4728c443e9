"""The command line: parses, delegates, prints. Results go to stdout, everything else to stderr.

An interruption at any instant ends with one sentence and status 130. Little is imported here, so that `main` heeds one
before it imports all the rest.
"""

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.errors import OrchestratorError

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = 130
_AGAIN_SECONDS = 0.01


def main() -> None:
    """Entry point of `orchestrator`: every failure that we explain becomes one sentence and an exit status."""
    _heed(_leave)
    from orchestrator.cli.app import app
    from orchestrator.errors import Interrupted

    stopped = Interrupted("interrupted; what was finished is kept", hint="run the same command again to go on")
    sys.unraisablehook = _raise_again
    try:
        _heed(_interrupt)
        status, failure = _perform(lambda: app(prog_name="orchestrator", standalone_mode=True))
    except BaseException as end:
        if not _comes_of_an_interruption(end):
            raise
        status, failure = _INTERRUPTED, stopped
    _heed(signal.SIG_IGN)  # nothing is left to interrupt: threads that still end have been told to
    if failure is not None or status == _INTERRUPTED:
        _explain(failure or stopped)
    sys.exit(status)


def _perform(command: "Callable[[], object]") -> "tuple[Any, OrchestratorError | None]":
    """The exit status, and what is to be explained."""
    from orchestrator.errors import OrchestratorError
    from orchestrator.host.faults import host_fault

    try:
        command()
        sys.stdout.flush()
    except SystemExit as end:
        return end.code, None
    except OrchestratorError as failure:
        return failure.exit_status, failure
    except OSError as failure:
        fault = host_fault(failure)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what could not be printed is not tried again
        return fault.exit_status, fault
    return 0, None


def _heed(handler: "Callable[[int, FrameType | None], object] | signal.Handlers") -> None:
    """Do so at each interruption, but for those that whoever started this process has it ignore."""
    for number in _INTERRUPTIONS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _leave(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted before anything was done\n")
    os._exit(_INTERRUPTED)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _comes_of_an_interruption(end: BaseException) -> bool:
    """Whether it is one, or what a second one made of the first: a lock that is waited for is given back unheld."""
    seen: BaseException | None = end
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen is not None


def _raise_again(lost: "sys.UnraisableHookArgs") -> None:
    """An interruption that fell into a destructor, where it cannot be raised, comes again a little later."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    import threading

    # A real signal to the main thread, since only that ends what it may be waiting in.
    main_thread = threading.main_thread().ident or 0
    later = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (main_thread, signal.SIGINT))
    later.daemon = True
    later.start()


def _explain(failure: "OrchestratorError") -> None:
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]error:[/bold red] ", end="")
    console.print(failure.message, markup=False)
    if failure.hint:
        console.print("[bold]what to do:[/bold] ", end="")
        console.print(failure.hint, markup=False)
    console.print(failure.exit_status.meaning, style="dim", markup=False)
