"""`support.toml` beside an image's description, as a table."""

import tomllib
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from harness.contract import BackendDescription, CheckpointFormat, Reason
from orchestrator.errors import BadImage
from orchestrator.images.image import Image
from orchestrator.plan.support.table import Answer, SupportRow, SupportTable

TABLE_NAME = "support.toml"


def support_of(image: Image, backend: BackendDescription) -> SupportTable:
    """The table of a backend; where its image has none, its description's word.

    Raises:
        BadImage: the file is not a valid table, or speaks of another backend or of devices that the image has not.
    """
    path = image.folder / TABLE_NAME
    if not path.is_file():
        return derived_table(image, backend)
    table = read_table(path)
    if table.backend != backend.name:
        raise BadImage(
            f"{path} is about {table.backend!r}, and the image offers {backend.name!r}", hint="correct `backend`"
        )
    if set(table.versions) != set(image.description.devices):
        raise BadImage(
            f"{path} has versions for other devices than {image.description_path.name} lists",
            hint="give one version for each of `devices`",
        )
    return table


def read_table(path: Path) -> SupportTable:
    """Raises BadImage where the file is not a valid table."""
    return _parsed(path, path.read_bytes())


@lru_cache(maxsize=64)
def _parsed(path: Path, text: bytes) -> SupportTable:
    try:
        return SupportTable.model_validate(tomllib.loads(text.decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as invalid:
        raise BadImage(f"{path} is not a valid support table: {invalid}", hint="see docs/images.md") from invalid


def derived_table(image: Image, backend: BackendDescription) -> SupportTable:
    """What an image without a table says of itself: its formats on all its devices, and nothing else."""
    source = f"{image.name}/{image.description_path.name}: there is no {TABLE_NAME} beside it"
    rows = [SupportRow(formats=backend.formats, answer=Answer.YES, source=source)] if backend.formats else []
    if backend.architectures:
        rows = [row.model_copy(update={"architectures": backend.architectures}) for row in rows]
        message = f"its description lists the architectures {', '.join(backend.architectures)} alone"
        no = {"answer": Answer.NO, "otherwise": True, "reason": Reason.ARCHITECTURE, "message": message}
        rows.append(SupportRow(formats=backend.formats, source=source, **no))
    others = tuple(one for one in CheckpointFormat if one not in backend.formats)
    if others:
        message = "its description does not list this format"
        rows.append(SupportRow(formats=others, answer=Answer.NO, reason=Reason.FORMAT, message=message, source=source))
    versions = dict.fromkeys(image.description.devices, "as pinned")
    return SupportTable(backend=backend.name, versions=versions, rows=tuple(rows))
