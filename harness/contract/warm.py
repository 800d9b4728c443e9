"""What an orchestrator and a process that keeps imports ready for workers say to each other: JSON, a message a packet.

An `Order` comes with the worker's stdin, stdout and stderr as descriptors. The worker itself answers `Begun`; when it
has ended, `Ended` follows, `Reap` is said, and `Reaped` is the last. `Refused` stands instead of all of that. Not part
of the contract with images: both ends are the same program.
"""

from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from harness.contract.base import Frozen

MESSAGE_BYTES = 1 << 17
"""The most that a message may have."""


class Order(Frozen):
    """Import `modules` and what they import anywhere, then fork a worker with these variables in this folder.

    `mark` is the variable by which the processes of a worker are found from outside.
    """

    kind: Literal["order"] = "order"
    modules: tuple[str, ...]
    variables: dict[str, str]
    folder: Path
    mark: str


class Reap(Frozen):
    """Take the ended worker's exit status: its id is free from then on."""

    kind: Literal["reap"] = "reap"


class Begun(Frozen):
    """The worker is all that it has to be, and reads its request."""

    kind: Literal["begun"] = "begun"
    pid: int


class Ended(Frozen):
    """The worker has ended, and its id is still taken."""

    kind: Literal["ended"] = "ended"


class Reaped(Frozen):
    """How it ended: `status` as `os.wait4` gives it, and the most memory that it had resident."""

    kind: Literal["reaped"] = "reaped"
    status: int
    peak_memory_bytes: int


class Refused(Frozen):
    """Why no worker can be forked there, now or later."""

    kind: Literal["refused"] = "refused"
    reason: str


ASKED: TypeAdapter[Order | Reap] = TypeAdapter(Order | Reap)
ANSWERED: TypeAdapter[Begun | Ended | Reaped | Refused] = TypeAdapter(Begun | Ended | Reaped | Refused)
