"""What an image that means ill gets, tried in one container; `docs/security.md` names these tests, a line each."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.contract import DeviceKind, Operation
from orchestrator.errors import BadImage
from orchestrator.host.worker_user import worker_user
from orchestrator.images.catalog import ImageCatalog
from orchestrator.images.image import Image
from orchestrator.runtime.docker import DockerRuntime
from orchestrator.stages import Limits
from tests.runtime.conftest import HOSTILE, Bench
from tests.support.containers import engine_or_skip

GIBIBYTE = 2**30
ORDINARY_DEVICES = {
    "console",
    "fd",
    "full",
    "mqueue",
    "null",
    "ptmx",
    "pts",
    "random",
    "shm",
    "stderr",
    "stdin",
    "stdout",
    "tty",
    "urandom",
    "zero",
}
Seen = dict[str, Any]


@pytest.fixture(scope="module")
def runtime(hostile: Image) -> DockerRuntime:
    engine_or_skip()
    found = DockerRuntime()
    found.prepare(hostile, DeviceKind.CPU, lambda note: None)
    return found


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file, which the container is given to read."""
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "weights").write_text("as they were")
    return folder


@pytest.fixture(scope="module")
def listening() -> Iterator[list[str]]:
    """Addresses of this machine at which something listens: a port of its loopback, and a name."""
    with socket.create_server(("127.0.0.1", 0)) as port, socket.socket(socket.AF_UNIX) as named:
        named.bind(f"\0llmcbench-{port.getsockname()[1]}")
        named.listen()
        yield [f"127.0.0.1:{port.getsockname()[1]}", "@" + named.getsockname()[1:].decode()]


def look_about(runtime: DockerRuntime, image: Image, root: Path, given: Path, addresses: list[str]) -> Seen:
    asked = {"addresses": addresses, "paths": [str(root), str(given), "/var/run/docker.sock", str(HOSTILE)]}
    bench = Bench(runtime, image, root)
    completed = bench.do(f"look_about:{json.dumps(asked)}", inputs={"checkpoint": given})
    assert bench.left_behind() == []
    assert completed.final is not None, completed
    return json.loads(completed.final.message)  # type: ignore[union-attr, no-any-return]


@pytest.fixture(scope="module")
def seen(
    runtime: DockerRuntime, hostile: Image, given: Path, listening: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Seen:
    return look_about(runtime, hostile, tmp_path_factory.mktemp("hostile"), given, listening)


@pytest.mark.docker
def test_it_reaches_no_network_nor_what_listens_on_this_machine(seen: Seen, listening: list[str]) -> None:
    for address in listening:
        with socket.socket(socket.AF_UNIX if address.startswith("@") else socket.AF_INET) as one:
            host, _, port = address.rpartition(":")
            one.connect("\0" + address[1:] if address.startswith("@") else (host, int(port)))

    assert seen["interfaces"] == ["lo"]
    assert seen["reached"] == []


@pytest.mark.docker
def test_it_sees_no_file_of_the_host_but_its_inputs(seen: Seen) -> None:
    assert seen["seen"] == []
    assert set(seen["devices"]) <= ORDINARY_DEVICES


@pytest.mark.docker
def test_it_changes_neither_its_root_nor_the_kernels_settings(seen: Seen) -> None:
    assert seen["written"] == []


@pytest.mark.docker
def test_it_changes_nothing_of_its_inputs(seen: Seen, given: Path) -> None:
    assert seen["input_changes"] == []
    assert [(path.name, path.read_text()) for path in given.iterdir()] == [("weights", "as they were")]


@pytest.mark.docker
def test_it_sees_no_process_but_its_own(seen: Seen) -> None:
    assert seen["processes"] == []


@pytest.mark.docker
def test_it_is_nobody_special_and_cannot_become_somebody(seen: Seen) -> None:
    status = seen["status"]

    assert set(status["Uid"].split()) == {str(worker_user()[0])} != {"0"}
    assert set(status["Gid"].split()) == {str(worker_user()[1])} != {"0"}
    assert set(status["Groups"].split()) <= {str(worker_user()[1])}
    assert {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")} == dict.fromkeys(
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"], 0
    )
    assert status["NoNewPrivs"] == "1"


@pytest.mark.docker
def test_it_makes_no_file_that_runs_as_its_owner(seen: Seen) -> None:
    assert seen["set_user_files"] == []
    assert seen["no_set_user_on"] == ["/tmp", "/dev/shm"]


@pytest.mark.docker
def test_its_scratch_is_bounded(seen: Seen) -> None:
    assert seen["scratch_bytes"] == {"/tmp": 2 * GIBIBYTE, "/dev/shm": 2 * GIBIBYTE}


@pytest.mark.docker
def test_the_system_calls_that_the_profile_leaves_out_are_closed(
    seen: Seen,
    runtime: DockerRuntime,
    hostile: Image,
    given: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert {name: how for name, how in seen["calls"].items() if how not in ("EPERM", "ENOSYS", "killed")} == {}

    monkeypatch.setattr("orchestrator.runtime.docker.seccomp_profile", lambda: "unconfined")
    without = look_about(runtime, hostile, tmp_path, given, [])

    assert list(without["calls"].values()).count("done") > len(without["calls"]) / 3, without["calls"]
    assert "chmod" in without["set_user_files"]


@pytest.mark.docker
def test_it_has_no_more_processes_than_it_may(runtime: DockerRuntime, hostile: Image, tmp_path: Path) -> None:
    bench = Bench(runtime, hostile, tmp_path)

    completed = bench.do("breed", limits=Limits(deadline_seconds=60, stop_seconds=1, processes=20))

    assert 0 < int(completed.final.message) < 20  # type: ignore[union-attr]


@pytest.mark.parametrize("operation", [Operation.FETCH, Operation.EVALUATE])
def test_no_image_makes_itself_the_one_that_fetches_or_evaluates(hostile: Image, operation: Operation) -> None:
    catalog = ImageCatalog(Path(__file__).parents[2] / "images", hostile.folder)

    with pytest.raises(BadImage, match=f"exactly one image must offer {operation.value}; these do: .*hostile"):
        catalog.only(operation)
