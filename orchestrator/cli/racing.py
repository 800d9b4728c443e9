"""`race`: the answer that a whole manifest would give, from as few of its measurements as it takes."""

import shlex
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from orchestrator.cli import options
from orchestrator.cli.deciding import (
    Backend,
    Batch,
    MaxCompressTime,
    MaxDisk,
    MaxLoss,
    MaxMemory,
    MinSpeed,
    Prefer,
    asked_for,
)
from orchestrator.cli.planning import prepare, read_for
from orchestrator.cli.scoring import print_blocks
from orchestrator.errors import BadManifest, CommandExit
from orchestrator.installation import find_manifest
from orchestrator.manifest import Manifest, pointing_at
from orchestrator.manifest.deciding import DecideEntry, read_seconds
from orchestrator.plan.impossible import announcements, refuse_the_impossible
from orchestrator.run.progress import ProgressMode, choose_display


def race(  # the limits are read by `asked_for`
    context: typer.Context,
    manifest: Annotated[Path, typer.Argument(help=f"The manifest to race on: {options.MANIFEST_HELP}")],
    max_memory: MaxMemory = None,
    max_disk: MaxDisk = None,
    max_loss: MaxLoss = None,
    min_speed: MinSpeed = None,
    max_compress_time: MaxCompressTime = None,
    backend: Backend = None,
    batch: Batch = None,
    prefer: Prefer = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Answer after so long with what is known by then: 30min, 2h.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", "-d", help="Instead of the manifest's device.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", "-r", help="Instead of the manifest's runtime.")] = None,
    fresh_workers: options.FreshWorkers = False,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    progress: options.ProgressOption = ProgressMode.AUTO,
    as_json: options.Json = False,
) -> None:
    """Say which variant to use, and measure only what that takes.

    Sizes come first, then speeds, then items in growing slices: after each, what all items will not recommend is left
    alone. Run it again to go on after an interruption, or when the budget is spent. A full run uses what it scored.

    Example: orchestrator race quick --max-loss 5% --prefer disk=1,loss=1 --budget 30min
    """
    from orchestrator.race.conducting import race as conduct
    from orchestrator.report.building import build_report
    from orchestrator.report.files import write_reports
    from orchestrator.report.racing import race_blocks
    from orchestrator.report.recommendation import recommendation_blocks
    from orchestrator.run.estimate import estimate
    from orchestrator.run.preview import look_ahead

    seconds = None if budget is None else read_seconds(budget)
    if budget is not None and not seconds:
        raise BadManifest(f"--budget {budget!r} is no time", hint="write a number and its unit, such as 30min")
    catalog, path = options.catalog(more_images), find_manifest(manifest)
    with pointing_at(path):
        asked = read_for(path, device, runtime)
        deciding = _deciding(asked, asked_for(asked.decide, context))
        setup = prepare(deciding, store, catalog, warm=not fresh_workers)
    gpu = shlex.join(["orchestrator", "race", str(manifest), "--device", "cuda"])
    refuse_the_impossible(setup.plan, gpu)
    display = choose_display(progress)
    for line in (*setup.decisions, *announcements(setup.plan, gpu)):
        display.note(line)
    for line in estimate(setup, look_ahead(setup)).lines:
        display.note(f"the whole manifest, of which a race measures a part: {line}")
    with closing(setup.runtime):
        raced = conduct(setup, display, seconds)
    files = write_reports(
        build_report(raced.record, setup.store, setup.catalog), setup.store.runs.folder / raced.record.run
    )
    written = f"Report: {', '.join(map(str, files))}"
    if as_json:
        typer.echo(raced.decision.model_dump_json(indent=1))
        display.note(written)
    else:
        print_blocks([*recommendation_blocks(raced.decision), *race_blocks(raced.decision)])
        typer.echo(written)
    raise typer.Exit(CommandExit.COMPLETE if raced.decided and raced.record.complete else CommandExit.INCOMPLETE)


def _deciding(manifest: Manifest, asked: DecideEntry) -> Manifest:
    """The manifest with what was typed among its limits.

    Raises:
        BadManifest: it times no such backend or batch.
    """
    try:
        return Manifest.model_validate({**manifest.model_dump(), "decide": asked.model_dump()})
    except ValidationError as invalid:
        problem = invalid.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise BadManifest(problem, hint="see `orchestrator race --help`") from invalid
