"""`score`, `compare`: how good, how sure, and whether two variants differ. Reads what is stored, runs nothing."""

from typing import Annotated

import typer
from rich.console import Console, RenderableType

from orchestrator.cli import options
from orchestrator.errors import BadManifest
from orchestrator.evidence.observation import Variant
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import shipped_images
from orchestrator.score.uncertainty import Resampling
from orchestrator.store import Store
from orchestrator.suggest import unknown
from orchestrator.tracks import Mode, Track

LOG_WIDTH = 120
"""Columns where there is no terminal to ask."""

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
    as_json: options.Json = False,
) -> None:
    """Show a run's overall metrics and values with their 95 % intervals."""
    from orchestrator.evidence.measured import measured
    from orchestrator.report.figures import score_blocks
    from orchestrator.score.uncertainty.scores import run_scores, score_run

    opened = Store(store)
    measurements = measured(opened.load_run(run), opened, ImageCatalog(shipped_images()))
    scores = [one for one in score_run(measurements, mode) if track in (None, one.track)]
    document = run_scores(measurements, scores, Resampling(resamples=resamples, seed=seed))
    if as_json:
        typer.echo(document.model_dump_json(indent=1))
        return
    _print(score_blocks(document))


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
    as_json: options.Json = False,
) -> None:
    """Show how two variants differ, A - B, with 95 % intervals and p-values.

    Example: orchestrator compare last 'wanda 50%' 'sparsegpt 50%'
    """
    from orchestrator.evidence.measured import measured
    from orchestrator.report.figures import comparison_blocks
    from orchestrator.score.uncertainty.comparing import Side
    from orchestrator.score.uncertainty.comparing import compare as compare_sides

    opened = Store(store)
    catalog = ImageCatalog(shipped_images())
    first = measured(opened.load_run(run), opened, catalog)
    second = measured(opened.load_run(other_run), opened, catalog) if other_run else first
    sides = (Side(first, find_variant(a, first.variants)), Side(second, find_variant(b, second.variants)))
    tracks = tuple(Track) if track is None else (Track(track),)
    document = compare_sides(*sides, mode, Resampling(resamples=resamples, seed=seed), tracks)
    if as_json:
        typer.echo(document.model_dump_json(indent=1))
        return
    _print(comparison_blocks(document))


def find_variant(name: str, variants: tuple[Variant, ...]) -> Variant:
    """The variant with this label, or the only one of this method.

    Raises:
        BadManifest: there is none, or several settings of the method.
    """
    labels = {variant.label: variant for variant in variants}
    wanted = " ".join(name.split())
    if wanted in labels:
        return labels[wanted]
    found = [variant for variant in variants if variant.method == wanted]
    if len(found) > 1:
        settings = ", ".join(repr(variant.label) for variant in found)
        raise BadManifest(f"the run has {wanted} at {len(found)} settings", hint=f"name one of: {settings}")
    if not found:
        raise BadManifest(unknown("variant", wanted, labels), hint=f"the run has: {', '.join(map(repr, labels))}")
    return found[0]


def _print(blocks: list[RenderableType]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    for block in blocks:
        console.print(block)
