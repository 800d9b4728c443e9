"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
MANIFEST_HELP = "a file, or the name of one that comes with the project, such as quick."
