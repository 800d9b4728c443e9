"""What the runtime of containers asks of an engine, and what it makes of each answer; without an engine."""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from docker.errors import APIError, DockerException, NotFound

from harness.contract import DeviceKind
from orchestrator.errors import BadImage, RuntimeUnavailable
from orchestrator.host.owner import Owner
from orchestrator.images.image import Image
from orchestrator.images.package_sources import PackageSources
from orchestrator.runtime import docker
from orchestrator.runtime.base import Ending, RuntimeName
from orchestrator.runtime.docker import OWNER_LABEL, STAGE_LABEL, DockerRuntime, container_options
from orchestrator.runtime.launch import Exit, Launch
from orchestrator.runtime.reach import Reach
from orchestrator.stages import ImageIdentity, Limits
from tests.runtime.test_attachment_frames import frame

CPU = DeviceKind.CPU
GROUP = Path("/proc/self/cgroup").read_text("utf-8").strip()
"""As the id of a container whose first process is the test's own."""


def refused(status: int, explanation: str = "no") -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("refused", response=response, explanation=explanation)


@dataclass
class Engine:
    """One container. `output` comes from it when it starts; it then ends, unless it waits for a signal."""

    output: bytes = b""
    exit_code: int = 0
    pid: int = 0
    closes_output: bool = True
    runs_on: bool = False
    kill_answer: Exception | None = None
    removal_answer: Exception | None = None
    others: list[SimpleNamespace] = field(default_factory=list)
    calls: list[object] = field(default_factory=list)
    created: dict[str, object] = field(default_factory=dict)
    running: bool = False

    def __post_init__(self) -> None:
        self.here, self.there = socket.socketpair()
        self.there.settimeout(5)
        self.api = SimpleNamespace(inspect_container=self.inspect, kill=self.kill, remove_container=self.remove)
        self.containers = SimpleNamespace(create=self.create, list=self.list)

    def create(self, image: str, **options: object) -> SimpleNamespace:
        self.calls.append("create")
        self.created = {"image": image} | options
        return SimpleNamespace(id=GROUP, attach_socket=self.attach, start=self.start)

    def attach(self, params: dict[str, int]) -> SimpleNamespace:
        self.calls.append(("attach", params))
        return SimpleNamespace(_sock=self.here, close=lambda: self.calls.append("close") or self.here.close())

    def start(self) -> None:
        self.calls.append("start")
        self.there.sendall(self.output)
        self.running = self.runs_on or not self.closes_output
        if self.closes_output:
            self.there.shutdown(socket.SHUT_WR)

    def inspect(self, name: str) -> dict[str, object]:
        assert name == self.created["name"]
        return {"State": {"Pid": self.pid, "Running": self.running, "ExitCode": self.exit_code}}

    def kill(self, name: str, signal: str) -> None:
        assert name == self.created["name"]
        self.calls.append(signal)
        self.running, self.exit_code = False, 143 if signal == "SIGTERM" else 137
        self.there.close()
        if self.kill_answer is not None:
            raise self.kill_answer

    def remove(self, name: str, **options: object) -> None:
        self.calls.append(("remove", name, options))
        if self.removal_answer is not None:
            raise self.removal_answer

    def list(self, **asked: object) -> list[SimpleNamespace]:
        assert asked == {"all": True, "filters": {"label": OWNER_LABEL}}
        return self.others


class Heard:
    """What a worker said on stdout."""

    def __init__(self, *, broken: bool = False) -> None:
        self.bytes = b""
        self.is_broken = broken
        self.has_answered = False

    def feed(self, data: bytes) -> None:
        self.bytes += data


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Engine], DockerRuntime]]:
    """A runtime whose engine has the image already."""
    engines = []

    def connect(engine: Engine) -> DockerRuntime:
        engines.append(engine)
        monkeypatch.setattr(docker, "connect", lambda: engine)
        monkeypatch.setattr(docker, "find_built", lambda client, image, device: (image, ImageIdentity("an identity")))
        monkeypatch.setattr(docker, "image_id", lambda client, tag: f"the id of {tag}")
        monkeypatch.setattr(docker, "name_images", lambda image, device: None)
        monkeypatch.setattr(PackageSources, "configured", classmethod(lambda cls: cls()))
        return DockerRuntime()

    yield connect
    for engine in engines:
        engine.here.close()
        engine.there.close()


def launched(
    runtime: DockerRuntime,
    image: Image,
    folder: Path,
    heard: Heard,
    *,
    cancel: threading.Event | None = None,
    limits: Limits | None = None,
    hold_stdin: bool = False,
) -> Exit:
    runtime.prepare(image, CPU, lambda note: None)
    work = Launch(image, b"a request", limits=limits or Limits(), stage="a/b", run="run-1", hold_stdin=hold_stdin)
    return runtime.launch(work, heard, folder / "stderr.log", cancel or threading.Event())


def test_a_worker_is_attached_before_it_starts_and_removed_after_it_ended(
    hostile: Image, tmp_path: Path, connected: Callable[[Engine], DockerRuntime]
) -> None:
    engine = Engine(frame(1, b"an event\n") + frame(2, b"a remark\n") + frame(1, b"another\n"), exit_code=3)
    heard = Heard()
    ended = launched(connected(engine), hostile, tmp_path, heard)
    name = str(engine.created.pop("name"))
    assert name.startswith("llmcbench-") and len(name) == len("llmcbench-") + 16
    assert engine.calls == [
        "create",
        ("attach", {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}),
        "start",
        "close",
        ("remove", name, {"force": True, "v": True}),
    ]
    options = container_options(Launch(hostile, b"", stage="a/b", run="run-1"))
    assert engine.created == {"image": f"the id of {docker.image_tag(hostile, CPU)}"} | options
    assert engine.there.recv(100) == b"a request"
    assert engine.there.recv(100) == b""
    assert heard.bytes == b"an event\nanother\n"
    assert (tmp_path / "stderr.log").read_bytes() == b"a remark\n"
    assert (ended.ending, ended.exit_code, ended.peak_memory_bytes) == (Ending.EXITED, 3, None)


@pytest.mark.parametrize("closes_output", [True, False])
def test_a_cancelled_worker_is_asked_whether_or_not_it_still_puts_something_out(
    hostile: Image, tmp_path: Path, connected: Callable[[Engine], DockerRuntime], closes_output: bool
) -> None:
    engine, cancel = Engine(closes_output=closes_output, runs_on=True), threading.Event()
    cancel.set()
    ended = launched(connected(engine), hostile, tmp_path, Heard(), cancel=cancel)
    assert [one for one in engine.calls if isinstance(one, str)] == (
        ["create", "start", "close", "SIGTERM"] if closes_output else ["create", "start", "SIGTERM", "close"]
    )
    assert (ended.ending, ended.exit_code) == (Ending.CANCELLED, -15)


def test_nobody_listens_any_more_when_a_worker_is_killed(
    hostile: Image, tmp_path: Path, connected: Callable[[Engine], DockerRuntime]
) -> None:
    engine = Engine(closes_output=False)
    heard_after = []
    plain = engine.kill

    def kill(name: str, signal: str) -> None:
        assert engine.there.recv(100) == b"a request"
        heard_after.append(engine.there.recv(100))
        plain(name, signal)

    engine.api.kill = kill
    ended = launched(connected(engine), hostile, tmp_path, Heard(broken=True), hold_stdin=True)
    assert heard_after == [b""]
    assert (ended.ending, ended.exit_code) == (Ending.BROKE_CONTRACT, -9)


@pytest.mark.parametrize("closes_output", [True, False])
def test_the_memory_of_the_first_processs_children_is_held_against_the_limit(
    hostile: Image, tmp_path: Path, connected: Callable[[Engine], DockerRuntime], closes_output: bool
) -> None:
    engine = Engine(pid=os.getpid(), closes_output=closes_output, runs_on=True)
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            ended = launched(
                connected(engine), hostile, tmp_path, Heard(), limits=Limits(memory_bytes=1, deadline_seconds=30)
            )
        finally:
            child.kill()
    assert "SIGKILL" in engine.calls
    assert ended.ending is Ending.KILLED_FOR_MEMORY
    assert ended.peak_memory_bytes is not None and ended.peak_memory_bytes > 1


@pytest.mark.parametrize("answer", [NotFound("gone"), refused(409)], ids=["gone", "going"])
def test_what_has_ended_or_is_being_removed_is_no_failure(
    hostile: Image, tmp_path: Path, connected: Callable[[Engine], DockerRuntime], answer: Exception
) -> None:
    engine, cancel = Engine(closes_output=False, kill_answer=answer, removal_answer=answer), threading.Event()
    cancel.set()
    assert launched(connected(engine), hostile, tmp_path, Heard(), cancel=cancel).ending is Ending.CANCELLED


@pytest.mark.parametrize("of", ["kill_answer", "removal_answer"])
def test_another_refusal_of_the_engine_is_one(
    hostile: Image, tmp_path: Path, connected: Callable[[Engine], DockerRuntime], of: str
) -> None:
    engine, cancel = Engine(closes_output=False, **{of: refused(500, "out of order")}), threading.Event()
    cancel.set()
    with pytest.raises(RuntimeUnavailable, match="the container engine refused: out of order") as raised:
        launched(connected(engine), hostile, tmp_path, Heard(), cancel=cancel)
    assert "journalctl" in raised.value.hint
    assert engine.calls[-1][0] == "remove"  # type: ignore[index]


@pytest.mark.parametrize(
    ("failure", "message", "hint"),
    [
        (refused(500, "could not select device driver"), "refused: could not select device driver", "nvidia-ctk"),
        (DockerException("no socket"), "stopped answering: no socket", "docker info"),
        (requests.ConnectionError("reset"), "stopped answering: reset", "docker info"),
    ],
)
def test_what_an_engine_raises_says_what_to_do(failure: Exception, message: str, hint: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=message) as raised, docker.engine_errors():
        raise failure
    assert hint in raised.value.hint
    assert raised.value.__cause__ is failure


def test_an_image_is_built_once_where_its_files_have_changed(hostile: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, notes = object(), []
    found: list[tuple[Image, ImageIdentity] | None] = [None, None, (hostile, ImageIdentity("made")), None]
    done: list[tuple[object, ...]] = []
    monkeypatch.setattr(docker, "connect", lambda: engine)
    monkeypatch.setattr(docker, "find_built", lambda *asked: done.append(("find", *asked)) or found.pop(0))
    monkeypatch.setattr(docker, "build_image", lambda *asked: done.append(("build", *asked)) or asked[-1]("building"))
    monkeypatch.setattr(docker, "image_id", lambda client, tag: done.append(("id", client, tag)))
    monkeypatch.setattr(docker, "name_images", lambda *asked: done.append(("name", *asked)))
    runtime = DockerRuntime()
    asked = (engine, hostile, CPU)
    assert runtime.name is RuntimeName.DOCKER
    assert runtime.identity(hostile, CPU) is None
    assert runtime.prepare(hostile, CPU, notes.append) == "made"
    assert notes == ["building"]
    assert [one[:4] for one in done] == [
        ("find", *asked),
        ("find", *asked),
        ("build", *asked),
        ("find", *asked),
        ("id", engine, docker.image_tag(hostile, CPU)),
        ("name", hostile, CPU),
    ]
    found += [None]
    with pytest.raises(BadImage, match="files of image 'hostile' changed while it was built"):
        runtime.prepare(hostile, CPU, notes.append)
    found += [(hostile, ImageIdentity("as it is"))]
    assert runtime.identity(hostile, CPU) == "as it is"


def test_what_is_not_prepared_is_not_started(
    hostile: Image, tmp_path: Path, connected: Callable[[Engine], DockerRuntime]
) -> None:
    engine = Engine()
    with pytest.raises(RuntimeUnavailable, match="image 'hostile' is not prepared"):
        connected(engine).launch(Launch(hostile, b""), Heard(), tmp_path / "stderr.log", threading.Event())
    assert engine.calls == []


def test_containers_of_dead_orchestrators_alone_are_swept(connected: Callable[[Engine], DockerRuntime]) -> None:
    living = Owner.current()
    dead = living.model_copy(update={"start_ticks": living.start_ticks + 1})
    labels = [
        {OWNER_LABEL: "of another program"},
        {OWNER_LABEL: living.model_dump_json(), STAGE_LABEL: "at work"},
        {OWNER_LABEL: dead.model_dump_json(), STAGE_LABEL: "left"},
        {OWNER_LABEL: dead.model_dump_json()},
    ]
    engine = Engine(
        others=[SimpleNamespace(id=number, name=f"c{number}", labels=one) for number, one in enumerate(labels)]
    )
    assert connected(engine).sweep() == ("container c2 for stage left", "container c3 for stage ?")
    options = {"force": True, "v": True}
    assert engine.calls == [("remove", "2", options), ("remove", "3", options)]


@pytest.mark.parametrize(
    ("reach", "index", "network"),
    [
        (Reach.NOTHING, "http://localhost:1/simple", "none"),
        (Reach.PACKAGES, "http://localhost:1/simple", "host"),
        (Reach.PACKAGES, "https://index.example/simple", "bridge"),
        (Reach.HUB, "https://index.example/simple", "bridge"),
    ],
)
def test_a_container_reaches_what_its_work_needs_and_nothing_else(
    hostile: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reach: Reach, index: str, network: str
) -> None:
    wheels, certificate = tmp_path / "wheels", tmp_path / "ca.crt"
    wheels.mkdir()
    certificate.touch()
    sources = PackageSources(
        index=index, find_links=(str(wheels),), certificate=certificate, proxies=(("HTTPS_PROXY", "http://proxy:1"),)
    )
    monkeypatch.setattr(PackageSources, "configured", classmethod(lambda cls: sources))
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    options = container_options(Launch(hostile, b"", reach=reach, environment={"ASKED_FOR": "yes"}))
    assert options["network_mode"] == network
    variables, mounts = options["environment"], {one["Target"]: one for one in options["mounts"]}
    of_workers = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    assert variables.items() >= (of_workers | {"ASKED_FOR": "yes"}).items()
    assert variables["HF_HUB_OFFLINE"] == ("0" if reach is Reach.HUB else "1")
    of_sources = {
        "HTTPS_PROXY": "http://proxy:1",
        "PIP_INDEX_URL": index,
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CERT": "/run/llmcbench-ca.crt",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "SSL_CERT_FILE": "/run/llmcbench-ca.crt",
        "REQUESTS_CA_BUNDLE": "/run/llmcbench-ca.crt",
    }
    more = {
        name: value for name, value in variables.items() if name not in {*of_workers, "ASKED_FOR", "HF_HUB_OFFLINE"}
    }
    if reach is Reach.NOTHING:
        assert (more, mounts) == ({}, {})
        return
    assert more == of_sources | ({"HF_TOKEN": "secret"} if reach is Reach.HUB else {})
    assert {target: (one["Source"], one["ReadOnly"]) for target, one in mounts.items()} == {
        str(wheels): (str(wheels), True),
        "/run/llmcbench-ca.crt": (str(certificate), True),
    }
