"""`artifact`: one file of a run that anyone can check."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import options
from orchestrator.cli.scoring import RunName
from orchestrator.errors import BadManifest, CommandExit
from orchestrator.installation import PAPER_CLAIMS, find_claims, shipped_images
from orchestrator.manifest.deciding import read_seconds
from orchestrator.run.progress import ProgressMode, choose_display
from orchestrator.store import Store

app = typer.Typer(help="One file of a run that anyone can check.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """One file of a run that anyone can check."""


@app.command()
def pack(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, such as quick.tar.zst.")],
    run: RunName = "last",
    claims: Annotated[
        list[Path] | None,
        typer.Option("--claims", help="A file of claims to pack with its verdicts, or its name; several times."),
    ] = None,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="With all checkpoints that are at hand.")] = False,
    data: Annotated[
        bool, typer.Option("--data", help="With the data sets whose licence is known to allow it.")
    ] = False,
    logs: Annotated[bool, typer.Option("--logs", help="With what workers logged.")] = False,
    with_host: Annotated[
        bool, typer.Option("--with-host", help="With the names of machines and GPUs, which are withheld otherwise.")
    ] = False,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Also a run that has not ended, or of which something is damaged.")
    ] = False,
    harness_of: Annotated[
        str | None,
        typer.Option(
            "--harness-of", help="Pack the harness of this commit, where the record names none that is whole."
        ),
    ] = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", help="A private key of ssh: writes the signature beside it, as FILE.sig.")
    ] = None,
    store: options.Store = options.DEFAULT_STORE,
    more_images: options.Images = None,
) -> None:
    """Pack a run with all that its figures follow from. The same run gives the same bytes.

    Absolute paths, secrets and names of machines and users are taken out. docs/artifacts.md says what is in it.

    Exits with 3 where the artifact lacks something that is not optional; it says in itself what.
    """
    from orchestrator.artifact.packing import OPTIONAL, Wanted, pack
    from orchestrator.artifact.signing import sign as sign_file

    named = {path.stem: path for path in (find_claims(one) for one in claims or [Path(PAPER_CLAIMS)])}
    if len(named) < len(claims or ()):
        raise BadManifest("two files of claims have the same name", hint="rename one of them")
    wanted = Wanted(named, checkpoints, data, logs, with_host, incomplete, harness_of)
    opened = Store(store)
    own = [one for one in options.catalog(more_images).images.values() if one.folder.parent != shipped_images()]
    contents = pack(opened, run, own, output, wanted)
    for sentence in contents.missing:
        typer.echo(f"missing: {sentence}", err=True)
    withheld = ", ".join(f"{count} {kind}" for kind, count in contents.withheld.items())
    typer.echo(f"withheld from texts: {withheld or 'nothing'}", err=True)
    if sign is not None:
        typer.echo(f"signature: {sign_file(output, sign)}", err=True)
    typer.echo(f"{output}: {contents.results} results of {contents.run}, {output.stat().st_size / 1e6:.1f} MB")
    if any(not sentence.startswith(OPTIONAL) for sentence in contents.missing):
        raise typer.Exit(CommandExit.INCOMPLETE)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="An artifact that `artifact pack` wrote.")],
    signers: Annotated[
        Path | None,
        typer.Option("--signers", help="Whom to believe: a file of allowed signers, as of ssh-keygen. Needs FILE.sig."),
    ] = None,
    signature: Annotated[
        Path | None, typer.Option("--signature", help="The signature, where it is not FILE.sig.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check, offline, all that follows from what is in the file, and name what is only stated in it.

    Exits with 3 where a check fails, with 2 where there is no file. docs/artifacts.md says what each check proves.
    """
    from orchestrator.artifact.verifying import verify as verify_file
    from orchestrator.artifact.wording import verification_lines

    found = verify_file(file, signers, signature)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        for line in verification_lines(found):
            typer.echo(line)
    if not found.holds:
        raise typer.Exit(CommandExit.INCOMPLETE)


@app.command()
def reproduce(
    file: Annotated[Path, typer.Argument(help="An artifact that `artifact pack` wrote.")],
    stages: Annotated[
        int | None, typer.Option("--stages", min=1, help="A sample of so many stages, with all that they need.")
    ] = None,
    within: Annotated[
        str | None, typer.Option("--within", help="What fits into so long, and no longer: 10min, 2h.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another number draws another sample.")] = 0,
    device: Annotated[str | None, typer.Option("--device", "-d", help="Instead of the kind that it ran on.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", "-r", help="Instead of the one that it ran in.")] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Where to measure; by default, FILE's name with -again.")
    ] = None,
    more_images: options.Images = None,
    progress: options.ProgressOption = ProgressMode.AUTO,
    as_json: options.Json = False,
) -> None:
    """Run it again here, or a sample of it, and judge each value by its kind: PASS, FAIL, or NOT RUN and why.

    The images and the harness are those that are here; nothing of the file is executed. Run it again to go on after an
    interruption. Exits with 3 where a value fails, nothing passes, or a stage that was to be run has no result.

    Example: orchestrator artifact reproduce run.tar.zst --stages 10 --within 30min
    """
    from orchestrator.artifact.reproducing import REPORT_NAME, Asked
    from orchestrator.artifact.reproducing import reproduce as reproduce_file
    from orchestrator.artifact.reproduction import Sample
    from orchestrator.artifact.wording import reproduction_lines
    from orchestrator.cli.planning import prepare

    seconds = None if within is None else read_seconds(within)
    if within is not None and not seconds:
        raise BadManifest(f"--within {within!r} is no time", hint="write a number and its unit, such as 10min")
    place = store or Path(f"{file.name.split('.')[0]}-again")
    catalog, display = options.catalog(more_images), choose_display(progress)
    asked = Asked(Sample(stages=stages, within_seconds=seconds, seed=seed), device, runtime)
    found = reproduce_file(file, asked, lambda manifest: prepare(manifest, place, catalog), display)
    report = place / "runs" / found.again / REPORT_NAME
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        display.note(f"Report: {report}")
    else:
        for line in (*reproduction_lines(found), f"Report: {report}"):
            typer.echo(line)
    if not found.holds:
        raise typer.Exit(CommandExit.INCOMPLETE)
