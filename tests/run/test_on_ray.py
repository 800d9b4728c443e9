"""A manifest on a real Ray of several raylets with pretended GPUs, of which a node, and then the driver, is lost."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.contract import DeviceKind
from orchestrator.store import Store
from orchestrator.store.history import all_runs
from tests.support.cluster_store import ROOT, ClusterStore
from tests.support.worker_process import environment_name

pytest.importorskip("ray", reason="Ray is not installed: requirements/ray.txt")
pytestmark = [pytest.mark.slow, pytest.mark.minutes]

H100 = "NVIDIA H100 80GB HBM3"
ON_LOST_NODE, ON_LOST_DRIVER = "compress/tiny/magnitude-50%", "profile/tiny/magnitude-50%"
"""The second needs the first, so that it cannot have the only turn to be timed while the first waits for one."""
MOST_SECONDS = 600.0


@dataclass
class RayNodes:
    """Raylets on this machine, each with GPUs that a stand-in of the driver reports to what runs there."""

    cluster: Any
    folder: Path

    def add(self, **gpus: str) -> Any:
        """A node with these GPUs, by the ends of their UUIDs."""
        return self.cluster.add_node(num_cpus=1, num_gpus=len(gpus), env_vars=variables(self.folder, gpus))

    def lose(self, node: Any) -> None:
        """Have a node go without a word."""
        self.cluster.remove_node(node, allow_graceful=False)


def variables(folder: Path, gpus: dict[str, str]) -> dict[str, str]:
    return {
        "PYTHONPATH": f"{ROOT / 'tests' / 'support' / 'pretended_driver'}:{ROOT}",
        "PRETENDED_GPUS": ",".join(f"GPU-{uuid}={model}" for uuid, model in gpus.items()),
        "RAY_worker_niceness": "0",
        "TMPDIR": str(folder),
    }


@pytest.fixture
def shared(tmp_path: Path) -> ClusterStore:
    return ClusterStore.make(tmp_path / "shared", DeviceKind.CUDA)


@pytest.fixture
def nodes(shared: ClusterStore) -> Iterator[RayNodes]:
    """A cluster of which the head has nothing to give."""
    from ray.cluster_utils import Cluster

    with ExitStack() as stack:
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
        )
        stack.callback(shutil.rmtree, Path(tempfile.gettempdir()) / "ray")
        stack.callback(cluster.shutdown)
        yield RayNodes(cluster, Path(shared.variables["TMPDIR"]))


def driver(shared: ClusterStore, nodes: RayNodes) -> subprocess.Popen[str]:
    words = ("run", str(shared.manifest), "--executor", "ray", "--address", nodes.cluster.address)
    command = shared.command(*words, "--device", "cuda:H100", "--progress", "plain")
    return subprocess.Popen(command, env=shared.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def at_work(shared: ClusterStore, stage: str) -> tuple[int, str]:
    """Wait for a held stage's worker; returns its process, and the GPU that it was asked to use and saw alone."""
    worker = shared.waiting(stage)
    shared.forget_waiting(stage)
    shown = json.loads((shared.control / environment_name(stage)).read_text())
    (gpu,) = shown["uuids"]
    assert shown["visible"] == gpu
    return worker, gpu


def test_a_lost_nodes_stages_are_done_elsewhere_and_a_lost_driver_is_started_again(
    shared: ClusterStore, nodes: RayNodes
) -> None:
    for stage in (ON_LOST_NODE, ON_LOST_DRIVER):
        shared.hold(stage)
    lost = nodes.add(b1=H100, b2=H100)
    first = driver(shared, nodes)

    worker, gpu = at_work(shared, ON_LOST_NODE)
    assert gpu.startswith("GPU-b")
    nodes.lose(lost)
    nodes.add(a1=H100, a2=H100)
    again, gpu = at_work(shared, ON_LOST_NODE)
    assert again != worker
    assert gpu.startswith("GPU-a")
    shared.release(ON_LOST_NODE)

    worker, _ = at_work(shared, ON_LOST_DRIVER)
    first.kill()
    said = first.communicate()[0]
    assert f"{ON_LOST_NODE}: lost on node " in said
    second = driver(shared, nodes)
    again, _ = at_work(shared, ON_LOST_DRIVER)
    assert again != worker
    assert not Path(f"/proc/{worker}").exists(), "what the lost driver had started was ended"
    shared.release(ON_LOST_DRIVER)

    said = second.communicate(timeout=MOST_SECONDS)[0]
    assert second.returncode == 0, said
    (record,) = all_runs(Store(shared.store))[0]
    assert record.complete
    assert record.device_model == H100
    assert shared.results() == sorted(record.stages)
    assert list(Store(shared.store).attempts.iterdir()) == []
    assert list(Store(shared.store).locks.glob("seen-by-nodes*")) == []
