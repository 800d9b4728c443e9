"""`score`, `compare`, `agreement`, `claims`: how good, how sure, whether two differ, and what is claimed of it.

They read what is stored and run nothing.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from orchestrator.cli import options
from orchestrator.evidence.resampling import Resampling
from orchestrator.installation import PAPER_CLAIMS, find_claims
from orchestrator.tracks import Mode, Track

SIDE_BY_SIDE_WIDTH = 200
"""Columns of a log where log-likelihoods stand beside one another."""

RunName = Annotated[str, typer.Argument(help="A run's name, the beginning of it, or 'last'.")]
ModeOption = Annotated[Mode, typer.Option("--mode", help="How the generalization metric averages.")]
TrackOption = Annotated[int | None, typer.Option("--track", min=1, max=6, help="Only this track.")]
Resamples = Annotated[int, typer.Option("--resamples", min=100, help="How often the items are drawn again.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same intervals.")]
DEFAULT = Resampling()


def score(
    run: RunName = "last",
    mode: ModeOption = Mode.PAPER,
    track: TrackOption = None,
    resamples: Resamples = DEFAULT.resamples,
    seed: Seed = DEFAULT.seed,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    as_json: options.Json = False,
) -> None:
    """Show a run's overall metrics and values with their 95 % intervals."""
    from orchestrator.evidence.reading import read_evidence
    from orchestrator.report.answers import score_blocks
    from orchestrator.score.scores import score_run

    record, opened, whole = options.open_run(store, run)
    resampling = Resampling(resamples=resamples, seed=seed)
    evidence = read_evidence(record, opened, options.catalog(more_images), resampling)
    document = score_run(evidence, mode, _tracks(track))
    if as_json:
        typer.echo(document.model_dump_json(indent=1))
    else:
        print_blocks(score_blocks(document))
    options.ends(whole=whole)


def compare(
    run: RunName,
    a: Annotated[str, typer.Argument(help="A variant: 'dense', a method, or a method and its setting.")],
    b: Annotated[str, typer.Argument(help="The variant to compare it with.")],
    other_run: Annotated[str, typer.Option("--other-run", help="The run that B is of, if not the same.")] = "",
    mode: ModeOption = Mode.PAPER,
    track: TrackOption = None,
    resamples: Resamples = DEFAULT.resamples,
    seed: Seed = DEFAULT.seed,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    as_json: options.Json = False,
) -> None:
    """Show how two variants differ, A - B, with 95 % intervals and p-values.

    Example: orchestrator compare last 'wanda 50%' 'sparsegpt 50%'
    """
    from orchestrator.evidence.reading import read_evidence
    from orchestrator.report.answers import comparison_blocks
    from orchestrator.score.comparing import Side
    from orchestrator.score.comparing import compare as compare_sides

    record, opened, whole = options.open_run(store, run)
    catalog = options.catalog(more_images)
    first = second = read_evidence(record, opened, catalog)
    if other_run:
        record, opened, other_whole = options.open_run(store, other_run)
        second, whole = read_evidence(record, opened, catalog), whole and other_whole
    sides = (Side(first, first.variant(a)), Side(second, second.variant(b)))
    document = compare_sides(*sides, mode, Resampling(resamples=resamples, seed=seed), _tracks(track))
    if as_json:
        typer.echo(document.model_dump_json(indent=1))
    else:
        print_blocks(comparison_blocks(document))
    options.ends(whole=whole)


def agreement(
    run: RunName = "last",
    items: Annotated[int, typer.Option("--items", min=0, help="Differing items to list of each task.")] = 20,
    store: options.Store = options.DEFAULT_STORE,
    as_json: options.Json = False,
) -> None:
    """Show how a backend's picks and log-likelihoods differ from the reference's, item by item.

    For runs whose manifest lists several engines under `evaluate`, such as manifests/deployed.yaml.
    """
    from orchestrator.evidence.reading import stored_results
    from orchestrator.report.answers import agreement_blocks
    from orchestrator.score.agreement import run_agreement

    record, opened, whole = options.open_run(store, run)
    document = run_agreement(record, stored_results(record, opened), opened)
    if as_json:
        typer.echo(document.model_dump_json(indent=1))
    elif not document.tasks:
        typer.echo(f"{record.run} evaluates by one engine alone: there is nothing to compare")
    else:
        print_blocks(agreement_blocks(document, items), SIDE_BY_SIDE_WIDTH)
    options.ends(whole=whole)


def claims(
    run: RunName = "last",
    file: Annotated[
        Path, typer.Option("--claims", help="A file of claims, or the name of one that comes with the project.")
    ] = Path(PAPER_CLAIMS),
    mode: ModeOption = Mode.PAPER,
    resamples: Resamples = DEFAULT.resamples,
    seed: Seed = DEFAULT.seed,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    as_json: options.Json = False,
) -> None:
    """Judge claims on a run: the paper's conclusions, or published values (--claims published).

    Exits with 0 where every claim holds, or passes, and with 3 where one does not, cannot be told, or is not measured.
    """
    from orchestrator.evidence.reading import read_evidence
    from orchestrator.report.answers import claims_blocks
    from orchestrator.score.claims import judge
    from orchestrator.score.claims_file import read_claims

    wanted = read_claims(find_claims(file))
    record, opened, whole = options.open_run(store, run)
    resampling = Resampling(resamples=resamples, seed=seed)
    document = judge(wanted, read_evidence(record, opened, options.catalog(more_images), resampling), mode)
    if as_json:
        typer.echo(document.model_dump_json(indent=1))
    else:
        print_blocks(claims_blocks(document), SIDE_BY_SIDE_WIDTH)
    options.ends(whole=whole and document.all_met)


def _tracks(number: int | None) -> tuple[Track, ...]:
    return tuple(Track) if number is None else (Track(number),)


def print_blocks(blocks: list[RenderableType], log_width: int = options.LOG_WIDTH) -> None:
    console = options.console(log_width)
    for block in blocks:
        console.print(block)
