"""`serve`: a page of a store in a browser. It reads what is there and runs nothing."""

from typing import Annotated

import typer

from orchestrator.cli import options
from orchestrator.errors import Interrupted, RuntimeUnavailable
from orchestrator.store import Store

LOOPBACK = "127.0.0.1"
PORT = 8765


def serve(
    store: options.Store = options.DEFAULT_STORE,
    host: Annotated[
        str, typer.Option("--host", help="Where to serve; beyond loopback a token is asked for.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = PORT,
    token: Annotated[bool, typer.Option("--token", help="Ask for a token on loopback, too.")] = False,
    more_images: options.Images = None,
) -> None:
    """Show a store in a browser: its runs, how far they are, their logs, and what came out so far. Reads only.

    Prints the address, and serves until it is interrupted.
    """
    try:
        from orchestrator.serve.guard import Access
        from orchestrator.serve.server import serve as serve_pages
    except ImportError as absent:
        raise RuntimeUnavailable(
            f"what serves pages cannot be imported: {absent}", hint="pip install 'llmcbench[serve]'"
        ) from absent
    catalog, access = options.catalog(more_images), Access.of(host, always=token)
    try:
        serve_pages(Store(store), catalog, host, port, access, typer.echo)
    except KeyboardInterrupt:
        raise Interrupted("the store is not served any more", hint="run the same command to serve it again") from None
