"""`backends list | verify`: which deployment libraries there are, and whether each was ever seen to work."""

import json
from typing import Annotated

import typer

from orchestrator.cli import options
from orchestrator.errors import BadManifest, CommandExit
from orchestrator.store import Store

app = typer.Typer(help="List deployment backends, and check one on this machine.", no_args_is_help=True)

_MARKS = {"passed": "pass", "failed": "FAIL", "not-applicable": "n/a"}


@app.command("list")
def list_backends(
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    as_json: options.Json = False,
) -> None:
    """Show every backend, its image, what we ran with it, and how its check went here."""
    from orchestrator.checks.backends import read_verifications

    root = Store(store).root
    catalog = options.catalog(more_images)
    if as_json:
        document = [
            {
                "backend": name,
                "image": image.name,
                "run_by_us": {device.value: backend.run_by_us.get(device) for device in image.description.devices},
                "verified_here": [one.model_dump(mode="json") for one in read_verifications(root, name)],
            }
            for name, (image, backend) in catalog.backends.items()
        ]
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    for name, (image, backend) in catalog.backends.items():
        typer.echo(f"{name}  (image {image.name}): {backend.summary}")
        for device in image.description.devices:
            run = backend.run_by_us.get(device)
            typer.echo(f"    {device.value:5} {f'run by us: {run}' if run else 'not run by us'}")
        for one in read_verifications(root, name):
            typer.echo(f"    {one.device_kind.value:5} {one.summary}")


@app.command()
def verify(
    backend: Annotated[str, typer.Argument(help="A backend, such as tensorrt-llm.")],
    device: options.Device = "auto",
    runtime: options.Runtime = "auto",
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    as_json: options.Json = False,
) -> None:
    """Serve a tiny model with a backend, check what comes back, and keep the outcome. Exits with 3 when a check fails.

    Example: orchestrator backends verify tensorrt-llm --runtime docker
    """
    from orchestrator.checks.backends import verify_backend
    from orchestrator.checks.backends.verify import REFERENCE, Subject
    from orchestrator.host.devices import choose_device
    from orchestrator.plan.resolving import resolve_backend
    from orchestrator.run.setup import named_runtime

    catalog = options.catalog(more_images)
    subject, reference = (Subject(*resolve_backend(name, catalog)) for name in (backend, REFERENCE))
    chosen = choose_device(device)
    if chosen.device.kind not in subject.image.description.devices:
        kinds = " or ".join(one.value for one in subject.image.description.devices)
        raise BadManifest(
            f"{subject.backend.name} runs on {kinds}, and this would be {chosen.reason}",
            hint="run this on a machine with an NVIDIA GPU and its driver",
        )
    root = Store(store).root
    ready, reason = named_runtime(runtime, root)
    _note(f"runtime: {ready.name.value}: {reason}")
    outcome, path = verify_backend(subject, reference, chosen, ready, root, _note)
    if as_json:
        typer.echo(outcome.model_dump_json(indent=1))
    else:
        for check in outcome.checks:
            typer.echo(f"{subject.backend.name}: {_MARKS[check.outcome.value]}: {check.name}: {check.message}")
        typer.echo(f"{subject.backend.name}: {outcome.summary}")
    _note(f"recorded in {path}")
    if not outcome.passed:
        raise typer.Exit(CommandExit.INCOMPLETE)


def _note(message: str) -> None:
    typer.echo(message, err=True)
