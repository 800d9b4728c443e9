"""Options that several commands share."""

import os
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.errors import CommandExit
from orchestrator.images.catalog import ImageCatalog
from orchestrator.installation import shipped_images
from orchestrator.manifest import KeepCheckpoints
from orchestrator.run.progress import ProgressMode
from orchestrator.store import RunRecord, Unreadable, history
from orchestrator.store import Store as StoreFolder

STORE_VARIABLE = "LLMCBENCH_STORE"

Store = Annotated[
    Path,
    typer.Option(
        "--store", envvar=STORE_VARIABLE, help="Folder of results, checkpoints and environments.", show_default=True
    ),
]
ProgressOption = Annotated[
    ProgressMode, typer.Option("--progress", help="live: bars; plain: lines; none: nothing; auto: live on a terminal.")
]
Device = Annotated[
    str,
    typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:all, or GPUs: GPU-a,GPU-b or cuda:1."),
]
Keep = Annotated[
    KeepCheckpoints | None,
    typer.Option("--keep-checkpoints", help="What of them stays after its last reader, instead of the manifest's."),
]
Runtime = Annotated[str, typer.Option("--runtime", "-r", help="auto, docker or process.")]
FreshWorkers = Annotated[
    bool,
    typer.Option("--fresh-workers", help="A process of its own for every stage, untimed ones too; processes only."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]

IMAGES_VARIABLE = "LLMCBENCH_IMAGES"
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--images", envvar=IMAGES_VARIABLE, help="A folder with more images, or of one; several times for several."
    ),
]

LOG_WIDTH = 120
"""Columns where there is neither a terminal to ask nor COLUMNS."""


class WhenFull(StrEnum):
    """What a run does on a disk that is full; `auto` waits where somebody sees a terminal."""

    AUTO = "auto"
    WAIT = "wait"
    END = "end"

    @property
    def waits(self) -> bool:
        return self is WhenFull.WAIT or (self is WhenFull.AUTO and sys.stderr.isatty())


WhenFullOption = Annotated[
    WhenFull,
    typer.Option(
        "--when-full", help="On a disk without room: wait for some, or end with status 3; auto waits at a terminal."
    ),
]

DEFAULT_STORE = Path(".llmcbench")
MANIFEST_HELP = "a file, or the name of one that comes with the project, such as quick."


def open_run(store: Path, wanted: str) -> tuple[RunRecord, StoreFolder, bool]:
    """A run as far as it can be read, its store, and whether that is all of it; the rest is named on stderr.

    Raises:
        StoreError: there is no such run, or it cannot be read.
    """
    opened = StoreFolder(store)
    found = history.open_run(opened, wanted)
    return found.record, opened, not warn(found.unreadable)


def warn(unreadable: Iterable[Unreadable]) -> bool:
    """Name on stderr what is passed over; returns whether there is anything."""
    found = tuple(unreadable)
    for one in found:
        typer.echo(f"warning: {one.message}; passed over", err=True)
    return bool(found)


def ends(*, whole: bool) -> None:
    """End with the exit status of a command that had to pass over something, where it had to."""
    if not whole:
        raise typer.Exit(CommandExit.INCOMPLETE)


def console(log_width: int = LOG_WIDTH) -> Console:
    """For tables on stdout: as wide as the terminal or COLUMNS, else `log_width`."""
    made = Console(highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = log_width
    return made


def catalog(more: list[Path] | None) -> ImageCatalog:
    """The images that come with the project, and those of the folders that were named."""
    return ImageCatalog(shipped_images(), *(more or []))
