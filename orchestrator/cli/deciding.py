"""`recommend`: which variant to use under limits and a preference. It reads what is stored and runs nothing."""

from typing import Annotated

import typer
from pydantic import ValidationError

from orchestrator.cli import options
from orchestrator.cli.scoring import DEFAULT, RunName, Seed, print_blocks
from orchestrator.errors import BadManifest
from orchestrator.manifest.deciding import DecideEntry, read_preference

MaxMemory = Annotated[str | None, typer.Option("--max-memory", help="At most so much, served: 16GiB.")]
MaxDisk = Annotated[str | None, typer.Option("--max-disk", help="At most so much, stored: 4GB.")]
MaxLoss = Annotated[
    str | None, typer.Option("--max-loss", help="At most so much of dense's accuracy; 2% by default, 100% is any.")
]
MinSpeed = Annotated[str | None, typer.Option("--min-speed", help="At least so fast: 30tokens/s.")]
MaxCompressTime = Annotated[
    str | None, typer.Option("--max-compress-time", help="At most so long to make: 30s, 20min, 1h.")
]
Backend = Annotated[str | None, typer.Option("--backend", "-b", help="Only through this library.")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Speed at so many prompts at once.")]
Prefer = Annotated[
    str | None, typer.Option("--prefer", help="Weights of loss, memory, disk, speed, time: speed=2,memory=1.")
]


def recommend(  # the limits are read by `asked_for`
    context: typer.Context,
    run: RunName = "last",
    max_memory: MaxMemory = None,
    max_disk: MaxDisk = None,
    max_loss: MaxLoss = None,
    min_speed: MinSpeed = None,
    max_compress_time: MaxCompressTime = None,
    backend: Backend = None,
    batch: Batch = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="Only this model; several times for more.")] = None,
    prefer: Prefer = None,
    resamples: Annotated[
        int, typer.Option("--resamples", min=1000, help="How often the items are drawn again.")
    ] = DEFAULT.resamples,
    seed: Seed = DEFAULT.seed,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
    as_json: options.Json = False,
) -> None:
    """Say which variant to use of those that a run measured, under limits and a preference, and how sure that is.

    What is not given is taken from the manifest's `decide`. A limit is kept only where that is certain.

    Example: orchestrator recommend last --max-memory 16GiB --max-loss 2% --prefer speed=2,memory=1
    """
    from orchestrator.decide.answering import decide_run, with_full_names
    from orchestrator.evidence.reading import read_evidence
    from orchestrator.evidence.resampling import Resampling
    from orchestrator.report.recommendation import recommendation_blocks

    record, opened, whole = options.open_run(store, run)
    catalog = options.catalog(more_images)
    asked = asked_for(record.manifest.decide, context)
    evidence = read_evidence(record, opened, catalog, Resampling(resamples=resamples, seed=seed))
    decision = decide_run(evidence, with_full_names(asked, catalog), tuple(model or ()))
    if as_json:
        typer.echo(decision.model_dump_json(indent=1))
    else:
        print_blocks(recommendation_blocks(decision))
    options.ends(whole=whole)


def asked_for(base: DecideEntry, context: typer.Context) -> DecideEntry:
    """What a manifest decides by, with the limits that were typed in place of its own.

    Raises:
        BadManifest: an option is no amount, or no weights.
    """
    given = {name: context.params.get(name) for name in DecideEntry.model_fields}
    typed = {name: value for name, value in given.items() if value is not None}
    if isinstance(prefer := typed.get("prefer"), str):
        typed["prefer"] = read_preference(prefer)
    try:
        return DecideEntry.model_validate({**base.model_dump(), **typed})
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        problem = first["msg"].removeprefix("Value error, ")
        raise BadManifest(f"{option}: {problem}", hint=f"see `{context.command_path} --help`") from invalid
