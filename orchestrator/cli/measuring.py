"""`bench`, `run`, `plan`: from a request to measurements."""

import json
import shlex
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.benching import BenchRequest, read_options
from orchestrator.errors import CommandExit
from orchestrator.host.devices import ChosenDevice
from orchestrator.host.gpu_models import planned_device
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import find_manifest
from orchestrator.manifest import Manifest, pointing_at, read_manifest
from orchestrator.plan.impossible import announcements, refuse_the_impossible
from orchestrator.plan.resolving import resolve_method
from orchestrator.run.progress import Display, ProgressMode, choose_display
from orchestrator.run.run import Run, Setup
from orchestrator.store import RunRecord
from orchestrator.store.history import as_it_is

if TYPE_CHECKING:
    from orchestrator.run.keys import KeyChange
    from orchestrator.run.preview import StagePreview

SIZES = Path("quick")
MOST_NAMES = 4
"""Changed files, parameters or inputs that a line of a plan names."""


def bench(
    method: Annotated[str, typer.Option("--method", "-m", help="A compression method.")] = "sparsegpt",
    backend: Annotated[str, typer.Option("--backend", "-b", help="A deployment library.")] = "transformers",
    model: Annotated[
        str, typer.Option("--model", help="hub:org/name@commit, dir:, gguf:, or pypi:name==version.")
    ] = "",
    setting: Annotated[str, typer.Option("--setting", "-s", help="'50%', '2:4', …; the method's own by default.")] = "",
    device: options.Device = "auto",
    runtime: options.Runtime = "auto",
    sizes: Annotated[Path | None, typer.Option("--sizes", help="The manifest to take tasks and sizes from.")] = None,
    method_options: Annotated[
        list[str] | None, typer.Option("--option", help="name=value of the method's; several times for several.")
    ] = None,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    progress: options.ProgressOption = ProgressMode.AUTO,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", "-n", help="Only show the plan, for --device cuda:H200 too; with --json as `plan --jsonl`."
        ),
    ] = (False),
    as_json: options.Json = False,
) -> None:
    """Compress one model with one method and compare it with the dense model on all tracks.

    The baseline that the method has to beat (magnitude pruning, rounding to nearest) is evaluated beside it. Where the
    library does not serve what the method makes by default, the nearest variant at that width is taken, and named.

    Example: orchestrator bench -m sparsegpt -b transformers -s 2:4
    """
    catalog = options.catalog(more_images)
    elsewhere = planned_device(device, None, 1) if dry_run else None
    here = "auto" if elsewhere else device
    asked = BenchRequest(method, backend, model, setting, here, runtime, read_options(method_options or ()))
    manifest, why = asked.manifest(read_manifest(find_manifest(sizes or SIZES)), catalog, elsewhere)
    setup = _prepare(manifest, store, catalog, elsewhere)
    if why is not None:
        setup = replace(setup, decisions=(*setup.decisions, why))
    if dry_run:
        _show_plan(setup, jsonl=as_json)
        return
    described, timed = resolve_method(method, catalog)[1], manifest.benchmark is not None
    gpu = asked.gpu_command
    refuse_the_impossible(setup.plan, gpu, method=described.name, backend=catalog.full_name(backend) if timed else "")
    display = choose_display(progress)
    if len(manifest.compress) == 1:
        display.note(f"no baseline stands beside {method}: none of the images offers one that does what it does")
    _measure(setup, display, gpu, as_json=as_json)


def run(
    manifest: Annotated[Path, typer.Argument(help=f"The manifest to run: {options.MANIFEST_HELP}")],
    device: Annotated[str | None, typer.Option("--device", "-d", help="Instead of the manifest's device.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", "-r", help="Instead of the manifest's runtime.")] = None,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    progress: options.ProgressOption = ProgressMode.AUTO,
    as_json: options.Json = False,
) -> None:
    """Run a manifest. Run it again to go on after an interruption; what is known is not measured again."""
    catalog, path = options.catalog(more_images), find_manifest(manifest)
    with pointing_at(path):
        setup = _prepare(_read(path, device, runtime), store, catalog)
    gpu = shlex.join(["orchestrator", "run", str(manifest), "--device", "cuda"])
    refuse_the_impossible(setup.plan, gpu)
    _measure(setup, choose_display(progress), gpu, as_json=as_json)


def plan(
    manifest: Annotated[Path, typer.Argument(help=f"The manifest to plan: {options.MANIFEST_HELP}")],
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="Instead of the manifest's device; cuda:H200 plans for a GPU not here."),
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option("--gpu-memory", help="Plan for a GPU with so much memory, such as 80GiB.")
    ] = None,
    devices: Annotated[int, typer.Option("--devices", help="How many GPUs there are where one is planned for.")] = 1,
    runtime: Annotated[str | None, typer.Option("--runtime", "-r", help="Instead of the manifest's runtime.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="A page instead of all stages.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a stage on stdout.")] = False,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
) -> None:
    """Show what a manifest would run, and what is known already. Builds and runs nothing.

    Of a stage that was run before and is to run again, the parts of its key that differ are named.

    Example: orchestrator plan full --device cuda:H200 --devices 8 --summary
    """
    catalog, path = options.catalog(more_images), find_manifest(manifest)
    elsewhere = planned_device(device, gpu_memory, devices)
    with pointing_at(path):
        setup = _prepare(_read(path, None if elsewhere else device, runtime), store, catalog, elsewhere)
    if summary:
        _show_summary(setup)
    else:
        _show_plan(setup, jsonl=jsonl)


def _show_summary(setup: Setup) -> None:
    from orchestrator.run.estimate import estimate
    from orchestrator.run.overview import overview
    from orchestrator.run.preview import look_ahead

    for line in overview(setup, estimate(setup, look_ahead(setup).missing)):
        typer.echo(line)


def _show_plan(setup: Setup, *, jsonl: bool) -> None:
    from orchestrator.run.estimate import estimate
    from orchestrator.run.overview import not_planned_lines
    from orchestrator.run.preview import look_ahead, preview

    for decision in setup.decisions:
        typer.echo(f"note: {decision}", err=True)
    known = look_ahead(setup)
    for stage in preview(setup, known):
        if jsonl:
            typer.echo(json.dumps(stage.model_dump(mode="json"), ensure_ascii=False))
        else:
            needs = f"  after {', '.join(stage.needs)}" if stage.needs else ""
            typer.echo(f"{stage.status:8} {stage.id}  [{stage.image}]{needs}")
            if stage.before is not None or stage.not_used is not None:
                typer.echo(f"{'':8} again{_why(stage)}")
    for line in not_planned_lines(setup.plan.not_planned):
        typer.echo(line, err=True)
    for line in estimate(setup, known.missing).lines:
        typer.echo(line, err=True)


def _why(stage: "StagePreview") -> str:
    """Why a stage with a stored result is to run again."""
    if stage.not_used is not None:
        return f": {stage.not_used}"
    if stage.changes:
        return f": {', '.join(_changed(change) for change in stage.changes)}"
    if stage.unknown:
        return f", unless {' and '.join(stage.unknown)} {'is' if len(stage.unknown) == 1 else 'are'} as before"
    return ": what it made is no longer there"


def _changed(change: "KeyChange") -> str:
    more = len(change.names) - MOST_NAMES
    names = (*change.names[:MOST_NAMES], *([f"{more} more"] if more > 0 else []))
    return f"{change.part.value} changed" + (f" ({', '.join(names)})" if names else "")


def _read(path: Path, device: str | None, runtime: str | None) -> Manifest:
    manifest = read_manifest(path)
    changes = {name: value for name, value in (("device", device), ("runtime", runtime)) if value is not None}
    return Manifest.model_validate({**manifest.model_dump(), **changes})


def _prepare(manifest: Manifest, store: Path, catalog: ImageCatalog, elsewhere: ChosenDevice | None = None) -> Setup:
    from orchestrator.run.setup import prepare_setup

    return prepare_setup(manifest, store, catalog, elsewhere)


def _measure(setup: Setup, display: Display, gpu_command: str, *, as_json: bool) -> None:
    from orchestrator.run.estimate import estimate
    from orchestrator.run.preview import look_ahead
    from orchestrator.run.scheduling import LocalExecutor

    for decision in setup.decisions:
        display.note(decision)
    for line in announcements(setup.plan, gpu_command):
        display.note(line)
    for line in estimate(setup, look_ahead(setup).missing).lines:
        display.note(line)
    cancel = threading.Event()
    record = Run(setup, display, cancel).perform(LocalExecutor(cancel))
    found = as_it_is(setup.store, record)
    whole = not options.warn(found.unreadable)
    _show(setup, found.record, display, as_json=as_json)
    complete = whole and record.complete and not record.not_planned
    if not complete:
        typer.echo(f"{CommandExit.INCOMPLETE.meaning} ({_lacking(record, whole=whole)})", err=True)
    raise typer.Exit(CommandExit.COMPLETE if complete else CommandExit.INCOMPLETE)


def _lacking(record: RunRecord, *, whole: bool) -> str:
    counts = Counter(state.status.value for state in record.stages.values() if not state.has_result)
    lacking = [f"{count} of {len(record.stages)} stages {status}" for status, count in counts.items()]
    lacking += [f"{len(record.not_planned)} not planned"] if record.not_planned else []
    return ", ".join(lacking if whole else [*lacking, "something stored could not be read"])


def _show(setup: Setup, record: RunRecord, display: Display, *, as_json: bool) -> None:
    from orchestrator.report import plain_text, summary_table
    from orchestrator.report.building import build_report
    from orchestrator.report.files import write_reports
    from orchestrator.report.outcome import outcome

    report = build_report(record, setup.store, setup.catalog)
    files = write_reports(report, setup.store.runs.folder / record.run)
    written = f"Report: {', '.join(map(str, files))}"
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
        display.note(outcome(report))
        display.note(written)
    else:
        options.console().print(summary_table(report), plain_text(outcome(report)), plain_text(written), sep="\n")
