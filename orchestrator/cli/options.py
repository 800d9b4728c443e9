"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from harness.contract import harness_folder
from orchestrator.run.progress import ProgressMode

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
    str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:all, or UUIDs of GPUs: GPU-a,GPU-b.")
]
Runtime = Annotated[str, typer.Option("--runtime", "-r", help="auto, docker or process.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]

DEFAULT_STORE = Path(".llmcbench")


def project_folder() -> Path:
    """The checkout that holds images/ and manifests/: `LLMCBENCH_PROJECT`, or the one this package lies in."""
    named = os.environ.get("LLMCBENCH_PROJECT")
    return Path(named) if named else harness_folder().parent


def images_folder() -> Path:
    return project_folder() / "images"
