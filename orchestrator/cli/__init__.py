"""The command line: parses, delegates, prints. Results go to stdout, everything else to stderr."""

import signal
import sys
from types import FrameType

from rich.console import Console

from orchestrator.errors import CommandExit, Interrupted, OrchestratorError


def main() -> None:
    """Entry point of `orchestrator`: every failure that we explain becomes one sentence and an exit status."""
    from orchestrator.cli.app import app

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(prog_name="orchestrator", standalone_mode=True)
    except OrchestratorError as failure:
        _explain(failure)
        sys.exit(failure.exit_status)
    except KeyboardInterrupt:
        _explain(Interrupted("interrupted; what was finished is kept", hint="run the same command again to go on"))
        sys.exit(CommandExit.INTERRUPTED)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _explain(failure: OrchestratorError) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]error:[/bold red] ", end="")
    console.print(failure.message, markup=False)
    if failure.hint:
        console.print("[bold]what to do:[/bold] ", end="")
        console.print(failure.hint, markup=False)
    console.print(failure.exit_status.meaning, style="dim", markup=False)
