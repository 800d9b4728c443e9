"""`store verify`: whether all that a store holds is as it was written."""

import typer

from orchestrator.cli import options
from orchestrator.errors import CommandExit, StoreError
from orchestrator.store import Store

app = typer.Typer(help="Look after the folder that holds results and checkpoints.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look after the folder that holds results and checkpoints."""


@app.command()
def verify(store: options.Store = options.DEFAULT_STORE, as_json: options.Json = False) -> None:
    """Hold runs and results against their seals, items and artifacts against their digests; name what is damaged.

    Nothing is changed, and the store may be read-only. Exits with 3 where something is damaged.
    """
    from orchestrator.store.verifying import verify_store

    opened = Store(store)
    if not opened.root.is_dir():
        raise StoreError(f"there is no store at {opened.root}", hint="name one with --store")
    found = verify_store(opened)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        for damage in found.damages:
            typer.echo(f"damaged: {damage.what}: {damage.reason}")
        rate = f", {found.artifact_bytes / 1e6 / found.seconds:.0f} MB/s" if found.seconds > 0 else ""
        typer.echo(
            f"{found.runs} runs, {found.results} results, {found.artifacts} artifacts of "
            f"{found.artifact_bytes / 1e6:.1f} MB in {found.seconds:.1f} s{rate}: "
            f"{f'{len(found.damages)} damaged' if found.damages else 'all as they were written'}"
        )
        if found.damages:
            typer.echo("`run` makes again what its manifest needs; `clean` frees what no run refers to", err=True)
    if found.damages:
        raise typer.Exit(CommandExit.INCOMPLETE)
