"""The folders that one fetch works in, all inside its output, so that the artifact can be published by rename."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.contract import ARTIFACT_NAME, FetchRequest
from harness.errors import BadRequest


@dataclass(frozen=True)
class Workspace:
    """`scratch` for downloads, `staging` for the artifact in the making, `source` for the input where there is one."""

    scratch: Path
    staging: Path
    artifact: Path
    source: Path | None

    def require_source(self) -> Path:
        """The input `source`.

        Raises:
            BadRequest: the request names none, or it is not a folder.
        """
        if self.source is None or not self.source.is_dir():
            where = "the request names none" if self.source is None else f"{self.source} is not a folder"
            raise BadRequest(f"this source needs the input 'source': {where}", hint="add it to the request's inputs")
        return self.source


@contextmanager
def open_workspace(request: FetchRequest) -> Iterator[Workspace]:
    """Empty working folders, removed again however the fetch ends."""
    output = Path(request.output)
    source = request.inputs.get("source")
    workspace = Workspace(
        scratch=output / ".scratch",
        staging=output / ".staging",
        artifact=output / ARTIFACT_NAME,
        source=None if source is None else Path(source),
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
