"""A small run that is measured by a worker that makes its figures up, packed; and how who has the tool changes it."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard
from typer.testing import CliRunner, Result

from harness.contract import digest_of
from orchestrator.artifact import packing
from orchestrator.artifact.archive import SUMS_NAME, read, write
from orchestrator.artifact.contents import Scoring
from orchestrator.artifact.source import SourceFiles, source_files
from orchestrator.cli.app import app
from orchestrator.evidence.resampling import Resampling
from orchestrator.store import RunRecord
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import Bench
from tests.support.stage_workers import keeping_worker

Files = dict[str, bytes]

CLAIMS = """schema_version: 1
title: small
groups: {pruned: {categories: [unstructured]}}
claims:
  - {name: slower, says: It decodes faster., source: us, a: {of: pruned, track: 5}, value: {at_least: 100}}
  - {name: worse, says: It loses accuracy., source: us, a: {of: pruned, track: 1}, value: {at_most: 100}}
"""


class Small:
    """A packed run, its files, and where of each stage they are."""

    def __init__(self, file: Path, record: RunRecord) -> None:
        self.file, self.record, self.run = file, record, record.run
        self.files = files_of(file)

    def folder(self, stage: str) -> str:
        return f"store/stages/{self.record.stages[stage].key}"

    @property
    def run_file(self) -> str:
        return f"store/runs/{self.run}/run.json"


def small_run(folder: Path) -> tuple[Bench, RunRecord]:
    bench = Bench(folder / "store")
    return bench, bench.run(FakeRuntime(keeping_worker))


def call(*command: str | Path) -> Result:
    return CliRunner().invoke(app, ["artifact", *map(str, command)], catch_exceptions=False)


def pack(store: Path, output: Path, *more: str | Path) -> Result:
    return call("pack", "last", "--store", store, "--output", output, *more)


def quick_to_verify(patch: pytest.MonkeyPatch, record: RunRecord, store: Path) -> None:
    """Let packing leave out what none of this run's keys and images needs, and resample little."""
    used = {f"images/{name}/image.toml" for name in ("base", "torch", "torch-transformers")}
    used |= {f"images/{state.image}/image.toml" for state in record.stages.values()}
    for state in record.stages.values():
        provenance = json.loads((store / "stages" / str(state.key) / "provenance.json").read_bytes())
        used |= {f"source/{name}" for name in provenance["material"]["code"]}

    def few(*asked: Any) -> SourceFiles:
        found = source_files(*asked)
        kept = {name: one for name, one in found.files.items() if name in used}
        return SourceFiles(kept, found.origin)

    patch.setattr(packing, "source_files", few)
    patch.setattr(packing, "Scoring", lambda: Scoring(resampling=Resampling(resamples=100)))


def files_of(file: Path) -> Files:
    return {one.name: one.content() for one in read(file)}


def document(files: Mapping[str, bytes], name: str) -> Any:
    return json.loads(files[name])


def items_of(files: Mapping[str, bytes], name: str) -> list[dict[str, Any]]:
    text = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(files[name])).read()
    return [json.loads(line) for line in text.splitlines()]


def packed_items(items: list[dict[str, Any]]) -> bytes:
    return zstandard.compress(b"".join(json.dumps(item).encode() + b"\n" for item in items))


def sealed(found: dict[str, Any]) -> bytes:
    content = {name: value for name, value in found.items() if name != "sha256"}
    return json.dumps({**content, "sha256": digest_of(content)}).encode()


def reseal(files: Files, run: str, output: Path) -> Path:
    """The archive of these files with every digest and seal made anew, as only who has this tool would."""
    files = {name: content for name, content in files.items() if name != SUMS_NAME}
    for name in [one for one in files if one.endswith("/provenance.json")]:
        folder, provenance = name.removesuffix("/provenance.json"), document(files, name)
        for kept, entry in provenance["files"].items():
            if (content := files.get(f"{folder}/{kept}")) is not None:
                entry |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        files[name] = sealed(provenance)
    for name in [one for one in files if one.endswith("/run.json")]:
        files[name] = sealed(document(files, name))
    write(output, run, files)
    return output


def unpacked_bytes(file: Path) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(file.read_bytes())).read()


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tree:
        for entry, content in entries:
            entry.size = len(content) if entry.isreg() else 0
            tree.addfile(entry, io.BytesIO(content))
    return out.getvalue()
