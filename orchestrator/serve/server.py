"""Serving until somebody ends it."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.serve.app import make_app
from orchestrator.serve.guard import TOKEN, Access
from orchestrator.store import Store

_BACKLOG = 64
_LEAVE_SECONDS = 1
_NICENESS = 10
"""A busy core leaves it a tenth: a page comes at once, and a report in the end."""


def serve(
    store: Store, catalog: ImageCatalog, host: str, port: int, access: Access, tell: Callable[[str], None]
) -> None:
    """Serve pages of a store until a signal ends it. `tell` gets the address; port 0 is any that is free.

    What is measured meanwhile on this machine comes first: this process has a low priority.

    Raises:
        BadManifest: the address cannot be bound.
        KeyboardInterrupt: it was ended.
    """
    listening = _bound(host, port)
    os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    with listening:
        tell(address(host, listening.getsockname()[1], access))
        config = uvicorn.Config(
            make_app(store, catalog, access),
            access_log=False,  # a first request has the token in its address
            date_header=False,
            http="h11",
            lifespan="off",
            log_level="warning",
            loop="asyncio",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_LEAVE_SECONDS,
            ws="none",
        )
        with _hanging_up_ends():
            uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _hanging_up_ends() -> Iterator[None]:
    """uvicorn heeds two signals; one that its event loop does not know about may leave it waiting."""
    before = signal.getsignal(signal.SIGHUP)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def address(host: str, port: int, access: Access) -> str:
    """What to open in a browser; every address of this machine is called by its name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104  compared, not bound
    name = f"[{name}]" if ":" in name else name
    query = "" if access.token is None else f"?{TOKEN}={access.token}"
    return f"http://{name}:{port}/{query}"


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        made.listen(_BACKLOG)
    except (OSError, OverflowError) as failure:
        why = failure.strerror if isinstance(failure, OSError) else "no such port"
        raise BadManifest(
            f"{host} port {port} cannot be served on: {why}", hint="choose another --port, 0 for any that is free"
        ) from failure
    return made
