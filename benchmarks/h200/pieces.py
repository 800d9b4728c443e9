"""Folders and files as pieces of bounded size, for machines that take and give only so much at a time.

python benchmarks/h200/pieces.py pack --into DIR --pieces 3 NAME...      # each NAME becomes an entry of the archive
python benchmarks/h200/pieces.py pack --into DIR --piece-mib 15 NAME...
python benchmarks/h200/pieces.py unpack --from DIR --into DIR

`pieces.json` beside the pieces holds the sha256 of each; unpacking refuses a piece that is missing or altered.
"""

import argparse
import hashlib
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

LIST_NAME = "pieces.json"
_COMPRESSION = 6


def pack(paths: Iterable[Path], into: Path, *, pieces: int | None = None, piece_bytes: int | None = None) -> list[Path]:
    """Archive `paths`, each under its own name, and cut the archive into `pieces`, or into pieces of `piece_bytes`."""
    into.mkdir(parents=True, exist_ok=True)
    for old in into.glob("piece-*"):
        old.unlink()
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=_COMPRESSION) as tar:
            for path in paths:
                tar.add(path, arcname=path.name)
        size = archive.tell()
        length = piece_bytes or -(-size // (pieces or 1))
        archive.seek(0)
        written = {}
        while data := archive.read(length):
            path = into / f"piece-{len(written) + 1:03d}"
            path.write_bytes(data)
            written[path.name] = hashlib.sha256(data).hexdigest()
    (into / LIST_NAME).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return [into / name for name in written]


def unpack(folder: Path, into: Path) -> None:
    """Check every piece, join them and extract the archive.

    Raises:
        SystemExit: a piece is missing or has another sha256 than the list says.
    """
    expected = json.loads((folder / LIST_NAME).read_text("utf-8"))
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as archive:
        for name, digest in expected.items():
            if not (folder / name).is_file():
                sys.exit(f"{name} is missing in {folder}: bring it there")
            data = (folder / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                sys.exit(f"{name} in {folder} is not what {LIST_NAME} says: bring it again")
            archive.write(data)
        archive.seek(0)
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not before Python 3.11.4
            tar.extractall(into)  # noqa: S202  what this project packed


def main() -> None:
    arguments = _arguments()
    if arguments.command == "unpack":
        unpack(arguments.source, arguments.into)
        return
    piece_bytes = int(arguments.piece_mib * 2**20) if arguments.piece_mib else None
    for path in pack(arguments.names, arguments.into, pieces=arguments.pieces, piece_bytes=piece_bytes):
        print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("names", nargs="+", type=Path)
    packing.add_argument("--into", type=Path, required=True)
    size = packing.add_mutually_exclusive_group(required=True)
    size.add_argument("--pieces", type=int)
    size.add_argument("--piece-mib", type=float)
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("--from", dest="source", type=Path, required=True)
    unpacking.add_argument("--into", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
