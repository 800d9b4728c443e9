"""What can go wrong on the host. Each message says what happened; each `hint` says what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from harness.contract.text import one_line


class CommandExit(IntEnum):
    """Exit status of the `orchestrator` command."""

    COMPLETE = 0
    BAD_REQUEST = 2
    INCOMPLETE = 3
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """In a line, with the number: `make` answers 2 whatever the command's own status was."""
        return f"exit status {self.value}: {_MEANINGS[self]}"


_MEANINGS = {
    CommandExit.COMPLETE: "complete",
    CommandExit.BAD_REQUEST: "nothing was done",
    CommandExit.INCOMPLETE: "done, and something is missing",
    CommandExit.INTERRUPTED: "interrupted, and what was finished is kept",
}


class OrchestratorError(Exception):
    """Base of every failure that the orchestrator explains."""

    exit_status = CommandExit.BAD_REQUEST

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadManifest(OrchestratorError):
    """The manifest, or a name on the command line, is not usable.

    `where` leads to what is wrong: the keys and list positions from the top of the manifest, as far as they are known.
    The message is one line, whatever of the manifest it quotes.
    """

    def __init__(self, message: str, *, hint: str = "", where: tuple[str | int, ...] = ()) -> None:
        super().__init__(one_line(message), hint=hint)
        self.where = where


@contextmanager
def located(*where: str | int) -> Iterator[None]:
    """Say of a BadManifest that is raised within that its `where` lies below this one."""
    try:
        yield
    except BadManifest as bad:
        raise BadManifest(bad.message, hint=bad.hint, where=(*where, *bad.where)) from bad


class BadImage(OrchestratorError):
    """An image's folder is incomplete, or its environment cannot be built."""


class StoreError(OrchestratorError):
    """The store is damaged, full, or in use by a command that needs it alone."""


class HostFault(StoreError):
    """The machine under the store failed while something was at work. What was finished is kept."""

    exit_status = CommandExit.INCOMPLETE


class DiskFull(HostFault):
    """No space is left on the disk under the store. Whoever frees some may have what was at work go on."""


class RuntimeUnavailable(OrchestratorError):
    """The container engine or the interpreter that a runtime needs does not answer."""


class Interrupted(OrchestratorError):
    """The user stopped the run. What was finished is kept."""

    exit_status = CommandExit.INTERRUPTED
