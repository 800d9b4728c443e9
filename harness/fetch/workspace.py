"""The folders that one fetch works in, all inside its output, so that the artifact can be published by rename."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.contract import ARTIFACT_NAME, WHEELS_NAME, FetchRequest
from harness.errors import BadRequest


@dataclass(frozen=True)
class Workspace:
    """`scratch` for downloads, `staging` for the artifact in the making, `wheels` for those to hand on.

    `inputs` are the request's, by name.
    """

    scratch: Path
    staging: Path
    artifact: Path
    wheels: Path
    inputs: Mapping[str, Path]

    def require_source(self) -> Path:
        """The input `source`.

        Raises:
            BadRequest: the request names none, or it is not a folder.
        """
        source = self.inputs.get("source")
        if source is None or not source.is_dir():
            where = "the request names none" if source is None else f"{source} is not a folder"
            raise BadRequest(f"this source needs the input 'source': {where}", hint="add it to the request's inputs")
        return source


@contextmanager
def open_workspace(request: FetchRequest) -> Iterator[Workspace]:
    """Empty working folders, removed again however the fetch ends."""
    output = Path(request.output)
    workspace = Workspace(
        scratch=output / ".scratch",
        staging=output / ".staging",
        artifact=output / ARTIFACT_NAME,
        wheels=output / WHEELS_NAME,
        inputs={name: Path(path) for name, path in request.inputs.items()},
    )
    working = (workspace.scratch, workspace.staging)
    for folder in working:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        yield workspace
    finally:
        for folder in working:
            shutil.rmtree(folder, ignore_errors=True)
