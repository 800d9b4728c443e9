"""The file itself: regular files below one folder, as ustar in one zstd frame, in the one form that `write` gives.

What is written depends on names and contents alone. What is read is held against that form byte by byte, so that there
is no second way to say the same: no links, folders, devices or owners, nothing outside, nothing twice, nothing behind.
"""

import hashlib
import re
import secrets
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from harness.contract import open_regular
from orchestrator.errors import OrchestratorError

MOST_ENTRIES = 400_000
MOST_DEPTH = 16
MOST_RATIO = 1000
"""Of what is unpacked to what is packed. Records of 300 stages that name the same source each come to 60."""
FREE_BYTES = 2**26
"""What may be unpacked of a file however small."""
MOST_WINDOW_BYTES = 2**27
"""What zstd may keep in memory while it unpacks."""
SUMS_NAME = "SHA256SUMS"
"""The last file: the sha256 of each of the others, in the form of sha256sum."""

_LEVEL = 12
_BLOCK_BYTES = tarfile.BLOCKSIZE
_CHUNK_BYTES = 2**20
_PIECE_BYTES = 2048
"""Read at once: zstd makes at most 32768 times as many of them, so that no more than 64 MiB come at once."""
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._][A-Za-z0-9._+=@,%: -]*")
_SUM = re.compile(r"([0-9a-f]{64})  (\S[^\n]*)")


class BadArchive(OrchestratorError):
    """A file is no artifact of a run, or was changed since it was packed."""


@dataclass(frozen=True)
class Packed:
    """One file of an archive while it is read, by its name below the folder. `chunks` is to be read to its end."""

    name: str
    size_bytes: int
    chunks: Iterator[bytes]

    def content(self) -> bytes:
        return b"".join(self.chunks)


def check_name(name: str) -> str | None:
    """Why a file within an artifact cannot be called so, in a clause; None where it can."""
    parts = name.split("/")
    if len(parts) > MOST_DEPTH:
        return f"it lies more than {MOST_DEPTH} folders deep"
    if not all(_NAME.fullmatch(part) for part in parts):
        return "its name is none that an artifact has: letters, digits and ._+=@,%:- in each part"
    try:
        header(name, 0)
    except ValueError:
        return "its name is too long"
    return None


def header(name: str, size_bytes: int) -> bytes:
    """The 512 bytes before a file's content, which say nothing of who packed it where and when."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size_bytes, 0o644
    return entry.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def write(path: Path, folder: str, files: Mapping[str, bytes | Path], known: Mapping[str, str] | None = None) -> None:
    """Write an archive of `files`, by their names, and their checksums, in place of what `path` was before.

    `known` has the sha256 of files that were hashed before. A kill at any instant leaves the old file or the new one.

    Raises:
        BadArchive: a name cannot be packed, or a file changed meanwhile.
        OSError: a file cannot be read, or nothing can be written there.
    """
    import zstandard

    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=False)
    sums: dict[str, str] = {}
    try:
        with temporary.open("xb") as raw, compressor.stream_writer(raw, closefd=False) as out:
            for name in sorted(files):
                sums[name] = _write_one(out, f"{folder}/{name}", files[name])
                if known and known.get(name, sums[name]) != sums[name]:
                    raise BadArchive(
                        f"{name} is not what it was when it was kept", hint="run `orchestrator store verify`"
                    )
            _write_one(out, f"{folder}/{SUMS_NAME}", sums_text(sums))
            out.write(bytes(2 * _BLOCK_BYTES))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sums_text(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def _write_one(out: BinaryIO, name: str, content: bytes | Path) -> str:
    if why := check_name(name):
        raise BadArchive(f"{name!r} cannot be packed: {why}", hint="rename it, and run the manifest again")
    digest, written = hashlib.sha256(), 0
    with _opened(content) as (size_bytes, chunks):
        out.write(header(name, size_bytes))
        for chunk in chunks:
            digest.update(chunk)
            written += len(chunk)
            out.write(chunk)
    if written != size_bytes:
        raise BadArchive(f"{name} changed while it was packed", hint="pack again when nobody writes there")
    out.write(bytes(-size_bytes % _BLOCK_BYTES))
    return digest.hexdigest()


@contextmanager
def _opened(content: bytes | Path) -> Iterator[tuple[int, Iterable[bytes]]]:
    if isinstance(content, bytes):
        yield len(content), (content,)
        return
    size_bytes = content.stat().st_size
    with open_regular(content) as file:
        yield size_bytes, iter(lambda: file.read(_CHUNK_BYTES), b"")


class _Unpacked:
    """The bytes of the one zstd frame that a file is, as they are asked for."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        import zstandard

        self._file = file
        self._frame = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW_BYTES).decompressobj()
        self._broken = zstandard.ZstdError
        self._most_bytes = max(FREE_BYTES, MOST_RATIO * size_bytes)
        self._made = 0
        self._held = bytearray()

    def take(self, size_bytes: int) -> bytes:
        """So many bytes, and fewer at the end alone."""
        while len(self._held) < size_bytes and self._more():
            pass
        taken = bytes(self._held[:size_bytes])
        del self._held[:size_bytes]
        return taken

    def _more(self) -> bool:
        if self._frame.eof:
            return False
        piece = self._file.read(_PIECE_BYTES)
        if not piece:
            raise _changed("it ends in the middle")
        try:
            made = self._frame.decompress(piece)
        except self._broken as broken:
            raise _changed(f"it cannot be unpacked ({broken})") from broken
        self._made += len(made)
        if self._made > self._most_bytes:
            raise _changed(f"it unpacks to more than {self._most_bytes} bytes, far more than records of a run come to")
        self._held += made
        return True

    def require_end(self) -> None:
        if self.take(1) or self._frame.unused_data or self._file.read(1):
            raise _changed("something stands behind its end")


def _changed(what: str) -> BadArchive:
    return BadArchive(
        f"the file is no artifact as `orchestrator artifact pack` writes it: {what}",
        hint="get it again from its source",
    )


def read(path: Path) -> Iterator[Packed]:
    """Every file of an archive in its order, the checksums last; names are below the folder that holds them all.

    Raises:
        BadArchive: it is not of the form that `write` gives, in any respect.
        OSError: it cannot be read.
    """
    with open_regular(path, follow=True) as file:
        unpacked = _Unpacked(file, path.stat().st_size)
        before, folder, count = "", None, 0
        while (head := unpacked.take(_BLOCK_BYTES)) != bytes(_BLOCK_BYTES):
            name, size_bytes = _header(head)
            top, _, below = name.partition("/")
            folder = folder or top
            count += 1
            if count > MOST_ENTRIES:
                raise _changed(f"it holds more than {MOST_ENTRIES} files")
            if top != folder or not below:
                raise _changed(f"{name} lies outside of its folder")
            if before == SUMS_NAME or (below <= before and below != SUMS_NAME):
                raise _changed(f"{below} stands twice, or out of order")
            packed = Packed(below, size_bytes, _content(unpacked, size_bytes))
            yield packed
            for _ in packed.chunks:  # what nobody wanted
                pass
            before = below
        if before != SUMS_NAME:
            raise _changed(f"it does not end with {SUMS_NAME}")
        if unpacked.take(_BLOCK_BYTES) != bytes(_BLOCK_BYTES):
            raise _changed("its end is not the usual one")
        unpacked.require_end()


def _header(head: bytes) -> tuple[str, int]:
    """Name and size of a file; a header that differs from the one that `header` gives by any bit is refused."""
    try:
        entry = tarfile.TarInfo.frombuf(head, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as broken:
        raise _changed(f"a header is damaged ({broken})") from broken
    if not entry.isreg():
        raise _changed(f"{entry.name!r} is a link, a folder or a device")
    if why := check_name(entry.name):
        raise _changed(f"of {entry.name!r}: {why}")
    if head != header(entry.name, entry.size):
        raise _changed(f"the header of {entry.name} says more than a name and a size")
    return entry.name, entry.size


def _content(unpacked: _Unpacked, size_bytes: int) -> Iterator[bytes]:
    left = size_bytes
    while left:
        chunk = unpacked.take(min(left, _CHUNK_BYTES))
        if not chunk:
            raise _changed("it ends in the middle of a file")
        left -= len(chunk)
        yield chunk
    padding = -size_bytes % _BLOCK_BYTES
    if unpacked.take(padding) != bytes(padding):
        raise _changed("something stands between its files")


def read_sums(content: bytes) -> dict[str, str]:
    """The checksums by name.

    Raises:
        BadArchive: the file is not of the form that `sums_text` gives.
    """
    found = {}
    for line in content.decode("ascii", errors="replace").splitlines():
        if (match := _SUM.fullmatch(line)) is None:
            raise _changed(f"{SUMS_NAME} has a line that is no checksum")
        found[match[2]] = match[1]
    if sums_text(found) != content:
        raise _changed(f"{SUMS_NAME} is not in order")
    return found
