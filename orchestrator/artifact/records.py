"""Record, requests, results and outcomes as an artifact keeps them: as in the store, without what is withheld.

What is changed is sealed anew, so that the store's own reading takes it. Nothing that a stage's key is made of is.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from harness.contract import RESULT_NAME, FileEntry, read_regular
from harness.contract.text import plain_lines
from orchestrator.artifact.contents import STORE_FOLDER
from orchestrator.artifact.withholding import Withholding
from orchestrator.stages import EVENTS_NAME, OUTPUT_NAME, REQUEST_NAME, STDERR_NAME
from orchestrator.store import RunRecord, StageRecord, Store, versioned
from orchestrator.store.door import outcomes_names
from orchestrator.store.imported import FOLDER_NAME as IMPORTED_NAME
from orchestrator.store.runs import RUN_NAME
from orchestrator.store.store import PROVENANCE_NAME

Files = Iterator[tuple[str, bytes]]


def run_files(record: RunRecord, store: Store, withholding: Withholding) -> Files:
    """The record, and figures of others that stand beside the run."""
    folder = f"{STORE_FOLDER}/runs/{record.run}"
    yield f"{folder}/{RUN_NAME}", sealed(withholding.document(record.model_dump(mode="json")))
    for one in store.imported.of(record.run):
        document = withholding.document(one.model_dump(mode="json"))
        yield f"{folder}/{IMPORTED_NAME}/{one.file_sha256}.json", sealed(document)


def stage_files(stage: StageRecord, store: Store, withholding: Withholding, *, logs: bool) -> Files:
    """What is kept of one stage. Of one that an early version stored, the request may not be there."""
    key = stage.provenance.key
    stored, folder = store.stages / key, f"{STORE_FOLDER}/stages/{key}"
    kept = {RESULT_NAME: _result(read_regular(stored / RESULT_NAME), withholding)}
    kept |= {f"{OUTPUT_NAME}/{name}": read_regular(stored / OUTPUT_NAME / name) for name in outcomes_names(stage.final)}
    files = {
        name: FileEntry(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in kept.items()
    }
    host = withholding.host(stage.provenance.host)
    provenance = stage.provenance.model_copy(update={"host": host, "files": files})
    yield f"{folder}/{PROVENANCE_NAME}", sealed(provenance.model_dump(mode="json"))
    yield from ((f"{folder}/{name}", content) for name, content in kept.items())
    if (stored / REQUEST_NAME).is_file():
        yield f"{folder}/{REQUEST_NAME}", _request(read_regular(stored / REQUEST_NAME), withholding)
    if logs:
        for name in (EVENTS_NAME, STDERR_NAME):
            if (stored / name).is_file():
                text = read_regular(stored / name).decode("utf-8", errors="replace")
                yield f"{folder}/{name}", withholding.text(plain_lines(text)).encode()


def sealed(document: dict[str, Any]) -> bytes:
    """A document of the store with its seal, in the bytes that an artifact has it in."""
    return dumped(versioned.sealed(document))


def dumped(document: Any) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _result(content: bytes, withholding: Withholding) -> bytes:
    """As the worker wrote it, byte by byte, where nothing had to be taken out."""
    document = json.loads(content)
    shown = withholding.document(document)
    return content if shown == document else json.dumps(shown, ensure_ascii=False).encode()


def _request(content: bytes, withholding: Withholding) -> bytes:
    """The request with the paths that a container has for inputs and output, and GPUs by their numbers."""
    document = json.loads(content)
    document["inputs"] = {name: f"/in/{name}" for name in document.get("inputs", {})}
    document["output"] = "/out"
    device = document.get("device", {})
    if not withholding.with_host:
        device["uuids"] = [f"GPU-{number}" for number, _ in enumerate(device.get("uuids", []))]
    return dumped(withholding.document(document))
