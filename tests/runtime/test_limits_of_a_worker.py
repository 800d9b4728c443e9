"""When a worker is signalled, on a clock that a test sets; and what a container or a process is allowed."""

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.contract import Device
from orchestrator.host.owner import Owner
from orchestrator.images.image import Image
from orchestrator.runtime import docker, launch
from orchestrator.runtime.base import Ending
from orchestrator.runtime.docker import OWNER_LABEL, RUN_LABEL, STAGE_LABEL, container_options
from orchestrator.runtime.environments import WorkerEnvironment
from orchestrator.runtime.launch import Launch, Watch
from orchestrator.runtime.process import _in_folder, _variables
from orchestrator.runtime.residency import PeakResident
from orchestrator.runtime.system_calls import seccomp_profile
from orchestrator.stages import Limits

LIMITS = Limits(deadline_seconds=100.0, stop_seconds=10.0, leave_seconds=30.0, memory_bytes=1000, processes=7)


class Clock:
    """Seconds, as a test says."""

    now = 5000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(launch, "time", made)
    return made


def heard(*, broken: bool = False, answered: bool = False) -> SimpleNamespace:
    return SimpleNamespace(feed=lambda data: None, is_broken=broken, has_answered=answered)


def watching(listener: SimpleNamespace, cancel: threading.Event | None = None) -> Watch:
    return Watch(LIMITS, cancel or threading.Event(), listener)


def test_a_worker_within_its_limits_is_left_alone_until_the_last_second(clock: Clock) -> None:
    watch = watching(heard())
    clock.now += 100.0
    assert watch.due(1000) is None
    assert (watch.ending, watch.wall_seconds) == (Ending.EXITED, 100.0)


def test_beyond_its_deadline_it_is_asked_once_and_killed_once_when_that_did_not_help(clock: Clock) -> None:
    watch = watching(heard())
    clock.now += 100.5
    assert watch.due() is signal.SIGTERM
    assert watch.ending is Ending.TIMED_OUT
    clock.now += 10.0
    assert watch.due() is None
    clock.now += 0.5
    assert [watch.due(), watch.due(10**9)] == [signal.SIGKILL, None]
    assert watch.ending is Ending.TIMED_OUT


def test_beyond_its_memory_it_is_killed_at_once(clock: Clock) -> None:
    watch = watching(heard())
    assert watch.due(1001) is signal.SIGKILL
    clock.now += 1e6
    assert watch.due(1001) is None
    assert watch.ending is Ending.KILLED_FOR_MEMORY


def test_what_breaks_the_contract_is_killed_and_a_cancelled_one_asked(clock: Clock) -> None:
    broken = watching(heard(broken=True))
    assert (broken.due(0), broken.ending) == (signal.SIGKILL, Ending.BROKE_CONTRACT)
    stop = threading.Event()
    stop.set()
    cancelled = watching(heard(), stop)
    assert (cancelled.due(0), cancelled.ending) == (signal.SIGTERM, Ending.CANCELLED)


def test_an_answer_that_was_heard_leaves_some_time_to_end(clock: Clock) -> None:
    listener = heard()
    watch = watching(listener)
    clock.now += 60.0
    assert watch.due(0) is None
    listener.has_answered = True
    assert watch.due(0) is None
    clock.now += 30.0
    assert watch.due(0) is None
    clock.now += 0.5
    assert (watch.due(0), watch.ending) == (signal.SIGTERM, Ending.STAYED)


def test_a_container_may_do_nothing_beyond_its_work(hostile: Image, tmp_path: Path) -> None:
    """All that it is created with, but for the environment, which others test."""
    output = tmp_path / "out"
    output.mkdir()
    work = Launch(
        hostile,
        b"",
        limits=LIMITS,
        inputs={"checkpoint": tmp_path},
        output=output,
        run="run-1",
        stage="a/b",
        user=(7, 8),
    )
    options = container_options(work)
    mounts = [dict(mount) for mount in options.pop("mounts")]
    assert mounts == [
        {"Target": "/in/checkpoint", "Source": str(tmp_path), "Type": "bind", "ReadOnly": True},
        {"Target": "/out", "Source": str(output), "Type": "bind", "ReadOnly": False},
    ]
    assert options.pop("log_config")["Type"] == "none"
    del options["environment"]
    assert options == {
        "stdin_open": True,
        "detach": False,
        "user": "7:8",
        "network_mode": "none",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=2g"},
        "shm_size": "2g",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true", f"seccomp={seccomp_profile()}"],
        "pids_limit": 7,
        "mem_limit": 1000,
        "memswap_limit": 1000,
        "init": True,
        "labels": {OWNER_LABEL: Owner.current().model_dump_json(), RUN_LABEL: "run-1", STAGE_LABEL: "a/b"},
        "device_requests": [],
    }


@pytest.mark.parametrize(
    ("state", "ending", "exit_code"),
    [
        ({"ExitCode": 0}, Ending.EXITED, 0),
        ({"ExitCode": 128}, Ending.EXITED, 128),
        ({"ExitCode": 137}, Ending.EXITED, -9),
        ({"ExitCode": 137, "OOMKilled": True}, Ending.KILLED_FOR_MEMORY, -9),
        ({"ExitCode": 0, "OOMKilled": True}, Ending.EXITED, 0),  # a child of it, which it did without
    ],
)
def test_a_containers_end_is_told_by_its_state(
    clock: Clock, state: dict[str, object], ending: Ending, exit_code: int
) -> None:
    memory = PeakResident()
    watch = watching(heard())
    clock.now += 3.0
    ended = docker._exit(state, watch, memory)
    assert (ended.ending, ended.exit_code, ended.wall_seconds) == (ending, exit_code, 3.0)
    assert ended.peak_memory_bytes == memory.peak_bytes


def test_a_container_that_was_stopped_for_another_reason_keeps_it(clock: Clock) -> None:
    watch = watching(heard(broken=True))
    watch.due(0)
    ended = docker._exit({"ExitCode": 137, "OOMKilled": True}, watch, PeakResident())
    assert ended.ending is Ending.BROKE_CONTRACT


def test_a_process_belongs_to_the_container_that_its_group_names_alone() -> None:
    group = Path("/proc/self/cgroup").read_text("utf-8").strip()
    assert docker._belongs_to(os.getpid(), group)
    assert not docker._belongs_to(os.getpid(), "a container of another machine")
    assert not docker._belongs_to(2**22 + 1, "")


def test_a_process_has_these_variables_and_none_of_the_callers(
    hostile: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name != "PYTEST_CURRENT_TEST":
            monkeypatch.delenv(name)
    monkeypatch.setenv("TZ", "Europe/Vienna")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/cuda")
    monkeypatch.setenv("PYTHONPATH", "/of/the/caller")
    environment = WorkerEnvironment(tmp_path / "environment", "0", "cp311")
    work = Launch(hostile, b"", device=Device(threads=3), environment={"ASKED_FOR": "yes"})
    assert _variables(work, environment, tmp_path / "home") == {
        "TZ": "Europe/Vienna",
        "LD_LIBRARY_PATH": "/cuda",
        "PATH": f"{environment.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "home"),
        "USER": "worker",
        "LOGNAME": "worker",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPYCACHEPREFIX": str(environment.bytecode.resolve()),
        "LLMCBENCH_IMAGE": str(hostile.description_path.resolve()),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "3",
        "ASKED_FOR": "yes",
    }


def test_a_word_of_a_command_that_names_a_file_of_the_image_is_its_path(tmp_path: Path) -> None:
    (tmp_path / "start.sh").touch()
    (tmp_path / "folder").mkdir()
    assert _in_folder("start.sh", tmp_path) == str(tmp_path / "start.sh")
    assert [_in_folder(word, tmp_path) for word in ("python", "-m", "folder")] == ["python", "-m", "folder"]
