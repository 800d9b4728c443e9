"""Which nodes of a cluster a run uses, for which device: a stand-in answers as Ray does, and none is started."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from harness.contract import DeviceKind, harness_digest
from orchestrator.cli.app import app
from orchestrator.errors import BadManifest, HostFault, RuntimeUnavailable
from orchestrator.run import ray_cluster
from orchestrator.run.facts import program_version
from orchestrator.run.ray_cluster import RayCluster
from orchestrator.run.ray_node import NodeFacts
from orchestrator.store import Store
from tests.support.cluster_store import MANIFEST

H100, L4 = "NVIDIA H100 80GB HBM3", "NVIDIA L4"


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class FakeRay:
    """As much of Ray as asking nodes takes. `nodes` maps names to what each says of itself, or why it cannot."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, **nodes: NodeFacts | Exception) -> None:
        self.has = {name: {"CPU": 8.0, "GPU": float(len(getattr(said, "gpus", ())))} for name, said in nodes.items()}
        self.says = dict(nodes)
        self.asked: list[str] = []

    def nodes(self) -> list[dict[str, object]]:
        return [{"NodeID": name, "Alive": True, "Resources": has} for name, has in self.has.items()]

    def wait(self, references: list[str], **_: object) -> tuple[list[str], list[str]]:
        return references, []

    def get(self, reference: str) -> str:
        said = self.says[reference]
        if isinstance(said, Exception):
            raise said
        return said.model_dump_json()


def node(*gpus: str, **facts: object) -> NodeFacts:
    usual = {
        "name": "host",
        "version": program_version(),
        "harness": harness_digest(),
        "cpu": "a processor (8 threads)",
        "threads": 8,
        "gpus": gpus,
        "gpu_memory_bytes": 80 * 2**30 if gpus else None,
        "driver": "580.95" if gpus else None,
        "sees_store": True,
        "niceness": 0,
    }
    return NodeFacts.model_validate({**usual, **facts})


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def join(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch):
    """A cluster of these nodes."""
    Store(tmp_path / "store").make()

    def joined(ray: FakeRay) -> RayCluster:
        def send(self: RayCluster, function: object, node: str, document: str, gpus: int) -> str:
            ray.asked.append(node)
            assert Path(document).is_file()
            return node

        monkeypatch.setattr(RayCluster, "_send", send)
        monkeypatch.setattr(ray_cluster.time, "sleep", lambda seconds: None)
        return RayCluster(ray, tmp_path / "store", said.append, patience_seconds=0.0)

    return joined


def test_the_model_that_most_gpus_are_of_is_taken_or_the_one_that_is_named(join) -> None:
    ray = FakeRay(a=node(H100, H100), b=node(L4), c=node(H100, gpu_memory_bytes=79 * 2**30), d=node())
    cluster = join(ray)
    chosen = cluster.choose("auto")
    assert (chosen.model, chosen.device.kind, chosen.device.uuids) == (H100, DeviceKind.CUDA, ("GPU-1", "GPU-2"))
    assert (chosen.memory_bytes, chosen.driver) == (79 * 2**30, "580.95")
    assert cluster.there(()) == {"a": ("GPU-1", "GPU-2", "fetch"), "c": ("GPU-1", "fetch")}
    assert cluster.choose("cuda:l4").device.uuids == ("GPU-1",)
    assert cluster.there(()) == {"b": ("GPU-1", "fetch")}
    assert cluster.choose("cpu").model == "a processor (8 threads)"
    assert cluster.there(())["d"] == ("cpu", "fetch")
    assert sorted(ray.asked) == ["a", "b", "c", "d"]


def test_no_more_gpus_are_used_than_ray_gives(join) -> None:
    ray = FakeRay(a=node(H100, H100), b=node(H100))
    ray.has["a"]["GPU"], ray.has["b"] = 1.0, {"CPU": 8.0}
    cluster = join(ray)
    assert cluster.choose("cuda").device.uuids == ("GPU-1",)
    assert cluster.there(()) == {"a": ("GPU-1", "fetch")}


def test_a_node_that_has_nothing_to_give_is_not_asked(join) -> None:
    ray = FakeRay(a=node(), head=node())
    ray.has["head"] = {"memory": 1.0}
    join(ray).choose("cpu")
    assert ray.asked == ["a"]


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"version": "0.0.1"}, "host has another version of this program (0.0.1)"),
        ({"harness": "0" * 64}, "host has another version of this program"),
        ({"sees_store": False}, "host does not see the store at "),
        ({"gpus": (H100, L4)}, f"host has GPUs of several models: {H100}, {L4}"),
    ],
)
def test_a_node_that_cannot_do_its_share_is_named_once_and_not_used(
    join, said: list[str], facts: dict[str, object], why: str
) -> None:
    cluster = join(FakeRay(a=node(H100), b=node(H100, **facts)))
    cluster.choose("cuda")
    assert list(cluster.there(())) == ["a"]
    assert cluster.there(())
    (note,) = said
    assert note.startswith(f"a node is not used: {why}")


def test_a_node_without_this_program_is_not_used(join, said: list[str]) -> None:
    cluster = join(FakeRay(a=node(H100), b=RayTaskError("trace\nModuleNotFoundError: No module named 'orchestrator'")))
    cluster.choose("cuda")
    assert list(cluster.there(())) == ["a"]
    assert said == [
        "a node is not used: it cannot run this program: ModuleNotFoundError: No module named 'orchestrator'"
    ]


def test_nodes_come_and_go(join, said: list[str]) -> None:
    ray = FakeRay(a=node(H100))
    cluster = join(ray)
    cluster.choose("cuda")
    ray.has["late"], ray.says["late"] = {"GPU": 1.0}, node(H100, niceness=15)
    assert set(cluster.there(())) == {"a", "late"}
    assert "niceness 15" in said[-1]
    del ray.has["a"]
    assert set(cluster.there(())) == {"late"}
    assert said[-1] == "node a (host) is lost"
    del ray.has["late"]
    with pytest.raises(HostFault, match=f"no node of the cluster is left that has {H100}") as ended:
        cluster.there(())
    assert "goes on" in ended.value.hint
    assert f"waits for a node that has {H100}: none is there" in said


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        ("cuda:L4", f"no node of the cluster has an {L4}"),
        ("cuda:nonsense", "unknown model of GPU"),
        ("GPU-1234", "'GPU-1234' names a GPU of this host"),
    ],
)
def test_a_device_that_no_node_has_is_refused(join, requested: str, words: str) -> None:
    with pytest.raises(BadManifest, match=words):
        join(FakeRay(a=node(H100))).choose(requested)


def test_gpus_where_no_node_has_one_are_refused(join) -> None:
    with pytest.raises(BadManifest, match="no node of the cluster has a GPU that Ray gives"):
        join(FakeRay(a=node())).choose("cuda")
    assert join(FakeRay(a=node())).choose("auto").device.kind is DeviceKind.CPU


def test_a_cluster_without_nodes_is_a_fault(join) -> None:
    with pytest.raises(HostFault, match="no node of the cluster answers"):
        join(FakeRay()).choose("auto")


def test_a_store_by_url_and_a_machine_without_ray_are_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "small.yaml"
    manifest.write_text(json.dumps(MANIFEST), encoding="utf-8")
    words = ["run", str(manifest), "--executor", "ray", "--address", "127.0.0.1:1"]
    by_url = CliRunner().invoke(app, [*words, "--store", "s3://bucket/store"]).exception
    assert isinstance(by_url, BadManifest)
    assert (by_url.message, by_url.hint) == (
        "the store is s3:/bucket/store, and nodes of a cluster share it as a folder",
        "mount it on all nodes, and name the path with --store",
    )
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    without = CliRunner().invoke(app, [*words, "--store", str(tmp_path / "store")]).exception
    assert isinstance(without, RuntimeUnavailable)
    assert without.hint == "install the extra: python -m pip install 'llmcbench[ray]'"
    assert not (tmp_path / "store").exists()
