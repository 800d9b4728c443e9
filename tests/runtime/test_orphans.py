import os
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.host.scratch import sweep_scratch
from orchestrator.runtime.base import RuntimeName

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
    token = "0123456789abcdef" * 2
    named, other, link = tmp_path / "llmcbench-0123456789abcdef", tmp_path / "other", tmp_path / "links"
    link.mkdir()
    for folder in (named, other):
        folder.mkdir()
        (folder / "file").touch()
    (link / named.name).symlink_to(other)
    for path in (other, link / named.name, named, named):
        sweep_scratch(path, token)
    assert not named.exists()
    assert (other / "file").exists()


def test_the_worker_of_a_living_orchestrator_is_left_alone(bench):
    swept = []

    completed = bench.run(bench.invocation("answer"), lambda event: swept.extend(bench.runtime.sweep()))

    assert swept == []
    assert completed.final.message == "answered"
