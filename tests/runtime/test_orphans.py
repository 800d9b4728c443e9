import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.host.owner import Owner
from orchestrator.host.scratch import scratch_path, sweep_all_scratch, sweep_scratch
from orchestrator.runtime.base import RuntimeName
from orchestrator.runtime.process import RUNNING_NAME, ProcessRuntime
from orchestrator.runtime.survivors import INVOCATION_VARIABLE

PROJECT = Path(__file__).parents[2]
ORPHAN_MAKER = """
import sys, threading
from pathlib import Path
from harness.contract import Device, DeviceKind, EvaluateParameters, Operation
from orchestrator.images.catalog import ImageCatalog
from orchestrator.runtime.base import Invocation
from orchestrator.runtime.choose import choose_runtime
from orchestrator.runtime.process import ProcessRuntime

kind, images, root, worker, run = sys.argv[1:]
root = Path(root)
image = ImageCatalog(Path(images)).images["hostile"]
runtime = ProcessRuntime(root / "store", worker=(worker,)) if kind == "process" else choose_runtime(kind, root)[0]
runtime.prepare(image, DeviceKind.CPU, lambda note: None)
folder = root / "orphan"
folder.mkdir()
invocation = Invocation(
    image, Operation.EVALUATE, EvaluateParameters(task="hang"), folder, "orphan", run, device=Device()
)
runtime.run(invocation, lambda event: print("running", flush=True), threading.Event())
"""


def make_orphan(bench) -> None:
    """Let another orchestrator start a worker that hangs, and kill that orchestrator without warning."""
    worker = Path(__file__).parent / "hostile" / "worker.py"
    images = bench.image.folder.parent
    command = [
        sys.executable,
        "-c",
        ORPHAN_MAKER,
        bench.runtime.name.value,
        images,
        bench.root,
        worker,
        bench.run_name,
    ]
    temporary = bench.root / "temporary"
    temporary.mkdir()
    variables = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT, text=True, env=variables) as other:
        assert other.stdout.readline() == "running\n"
        os.kill(other.pid, signal.SIGKILL)


def test_the_worker_of_a_killed_orchestrator_is_swept(bench):
    make_orphan(bench)
    scratch = bench.root / "temporary"
    assert bench.left_behind() != []
    assert len(list(scratch.glob("llmcbench-*"))) == (1 if bench.runtime.name is RuntimeName.PROCESS else 0)

    swept = bench.runtime.sweep()

    # Of containers the engine may hold more: another killed program's, which are swept, too.
    assert sum("orphan" in one for one in swept) == 1
    assert bench.left_behind() == []
    assert list(scratch.glob("llmcbench-*")) == []
    assert not any("orphan" in one for one in bench.runtime.sweep())


def test_what_an_entry_calls_a_worker_s_folder_is_removed_by_its_name_alone(tmp_path: Path) -> None:
    owner, token = Owner.current(), "0123456789abcdef" * 2
    named, other, link = tmp_path / scratch_path(owner, token).name, tmp_path / "other", tmp_path / "links"
    link.mkdir()
    for folder in (named, other):
        folder.mkdir()
        (folder / "file").touch()
    (link / named.name).symlink_to(other)
    for path in (other, link / named.name, named, named):
        sweep_scratch(path, owner, token)
    assert not named.exists()
    assert (other / "file").exists()


def test_folders_of_the_dead_go_though_nobody_knows_their_work_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    me = Owner.current()
    dead = me.model_copy(update={"start_ticks": me.start_ticks + 1})
    kept = (scratch_path(me, "a" * 8), scratch_path(dead.model_copy(update={"host": "another"}), "b" * 8))
    for path in (*kept, scratch_path(dead, "c" * 8), tmp_path / "llmcbench-0"):
        path.mkdir()
        (path / "file").touch()
    scratch_path(dead, "d" * 8).symlink_to(kept[0])
    sweep_all_scratch()
    assert {*tmp_path.iterdir()} == {*kept, tmp_path / "llmcbench-0", scratch_path(dead, "d" * 8)}
    assert (kept[0] / "file").exists()


def test_the_worker_of_a_living_orchestrator_is_left_alone(bench):
    swept = []

    completed = bench.run(bench.invocation("answer"), lambda event: swept.extend(bench.runtime.sweep()))

    assert swept == []
    assert completed.final.message == "answered"


@pytest.mark.parametrize("damage", ["a pipe", "garbage", "a link"])
def test_a_damaged_note_of_a_worker_goes_with_the_worker(tmp_path: Path, damage: str) -> None:
    runtime, token = ProcessRuntime(tmp_path), "0123456789abcdef" * 2
    note = tmp_path / RUNNING_NAME / f"{token}.json"
    note.parent.mkdir()
    match damage:
        case "a pipe":
            os.mkfifo(note)
        case "garbage":
            note.write_bytes(b"\xff\x00{")
        case _:
            note.symlink_to("/dev/null")
    with subprocess.Popen(["sleep", "600"], env={INVOCATION_VARIABLE: token, "PATH": os.environ["PATH"]}) as worker:
        runtime.sweep()
        assert os.path.lexists(note)
        worker.kill()
    runtime.sweep()
    assert not os.path.lexists(note)
