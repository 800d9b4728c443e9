"""What runs on a node of a Ray cluster: it says what the node is, and performs one job."""

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.contract import Frozen, Sha256, harness_digest
from orchestrator.host.devices import choose_device
from orchestrator.host.gpus import find_gpus
from orchestrator.run.facts import program_version
from orchestrator.run.job import StageJob, perform


class NodeFacts(Frozen):
    """What a node says of itself. `gpus` are the models of those that its driver reports, `cpu` is the processor's.

    `sees_store`: it has a file there that was written here a moment ago. `niceness` is that of what runs there.
    """

    name: str
    version: str | None
    harness: Sha256
    cpu: str
    threads: int
    gpus: tuple[str, ...]
    gpu_memory_bytes: int | None
    driver: str | None
    sees_store: bool
    niceness: int


def facts_here(seen: str) -> str:
    """What this host is, as a document. `seen` is the path of a file."""
    gpus, cpu = find_gpus(), choose_device("cpu")
    sizes = [gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None]
    return NodeFacts(
        name=socket.gethostname(),
        version=program_version(),
        harness=harness_digest(),
        cpu=cpu.model,
        threads=cpu.device.threads or 1,
        gpus=tuple(gpu.name for gpu in gpus),
        gpu_memory_bytes=min(sizes) if len(sizes) == len(gpus) and sizes else None,
        driver=min((gpu.driver for gpu in gpus if gpu.driver is not None), default=None),
        sees_store=Path(seen).is_file(),
        niceness=os.nice(0),
    ).model_dump_json()


def perform_document(document: str) -> str:
    """Perform a job; an interruption, as Ray sends it, ends its worker first."""
    cancel = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(perform, StageJob.model_validate_json(document), cancel)
        while True:
            try:
                return future.result().model_dump_json()
            except KeyboardInterrupt:
                cancel.set()
