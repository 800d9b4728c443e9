"""A manifest on a real Slurm of one node: arrays by levels, what is killed is queued again, one result a stage."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.plan import groups, read_jobs
from orchestrator.store import Store
from orchestrator.store.history import all_runs
from tests.deploy.plans import GPU_PLAN, planning
from tests.support.cluster_store import ClusterStore, wait_until
from tests.support.slurm import Slurm, running_slurm, why_no_slurm

ROOT = Path(__file__).parents[2]
SUBMIT = ROOT / "deploy" / "slurm" / "submit.py"

KILLED, REQUEUED = "compress/tiny/magnitude-50%", "profile/tiny/magnitude-50%"
"""Of one level each: a node that is busy with the one could not begin the other, which wants it alone."""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    folder = tmp_path / "slurm"
    folder.mkdir()
    with running_slurm(folder) as found:
        yield found


def submit(slurm: Slurm, cluster: ClusterStore, *words: str) -> list[str]:
    """What submit.py prints, a line each."""
    command = [sys.executable, str(SUBMIT), str(cluster.manifest)]
    options = ["--store", str(cluster.store), "--orchestrator", str(cluster.program), *words]
    done = subprocess.run(
        [*command, *options], env=cluster.variables | slurm.variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def task_of(cluster: ClusterStore, jobs: list[str], stage: str) -> str:
    """The array's task that a stage is, as `JOB_TASK`."""
    files = sorted(cluster.store.glob("slurm/*/*.stages"))
    for job, file in zip(jobs, files, strict=True):
        stages = file.read_text().splitlines()
        if stage in stages:
            return f"{job}_{stages.index(stage)}"
    raise AssertionError(f"{stage} was not submitted")


@pytest.mark.slow
@pytest.mark.skipif(why_no_slurm() != "", reason=why_no_slurm())
def test_a_manifest_comes_to_its_report_though_stages_are_killed_and_queued_again(tmp_path: Path, slurm: Slurm) -> None:
    cluster = ClusterStore.make(tmp_path / "shared")
    for stage in (KILLED, REQUEUED):
        cluster.hold(stage)
    *arrays, report, _ = [line.partition(":")[0] for line in submit(slurm, cluster)]

    killed, worker = task_of(cluster, arrays, KILLED), cluster.waiting(KILLED)
    cluster.forget_waiting(KILLED)
    os.kill(orchestrator_of(worker), signal.SIGKILL)
    again = cluster.waiting(KILLED)
    assert again != worker
    assert not _lives(worker), "what the killed one had started was ended by the next"
    assert slurm.restarts(killed) == 1
    cluster.release(KILLED)

    requeued, worker = task_of(cluster, arrays, REQUEUED), cluster.waiting(REQUEUED)
    cluster.forget_waiting(REQUEUED)
    slurm.ask("scontrol", "requeue", requeued)
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the scheduler stopped the stage, and that its worker")
    assert cluster.waiting(REQUEUED) != worker
    assert slurm.restarts(requeued) == 1
    cluster.release(REQUEUED)

    wait_until(lambda: slurm.state(report) in ("COMPLETED", "FAILED"), "the last job has ended", seconds=300)
    assert slurm.exit_status(report) == 0
    (record,) = all_runs(Store(cluster.store))[0]
    assert record.complete
    assert {state.status.value for state in record.stages.values()} == {"cached"}, "the last job had nothing to run"
    assert cluster.results() == sorted(record.stages)
    assert list(Store(cluster.store).attempts.iterdir()) == []
    assert submit(slurm, cluster) == ["nothing is to be run"]


def orchestrator_of(worker: int) -> int:
    """The process that started a worker."""
    return int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def shown(tmp_path: Path) -> list[str]:
    """What would be submitted of a plan for GPUs."""
    program = planning(tmp_path)
    words = ("--device", "cuda:H200", "--devices", "2", "--option=--partition=short", "--cpus", "4", "--most", "9")
    command = [sys.executable, str(SUBMIT), "m.yaml", "--store", "store", "--orchestrator", str(program), *words, "-n"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (tmp_path / "asked").read_text() == (
        f"plan {tmp_path}/m.yaml --jsonl --store {tmp_path}/store --device cuda:H200 --devices 2\n"
    )
    assert not (tmp_path / "store").exists()
    return done.stdout.splitlines()


def test_a_job_asks_for_what_its_stage_takes(shown: list[str]) -> None:
    fetch, several, whole_host, report = shown
    for line in shown:
        assert line.startswith("sbatch --parsable ")
        assert "--partition=short" in line
        assert "--cpus-per-task=4" in line
    assert "--array=0-0%9 --time=390 --cpus" in fetch
    assert "--gpus" not in fetch
    assert "--gpus=1" in whole_host
    assert "--exclusive" in whole_host
    assert "--gpus=2" in several
    assert "--array=0-1%9 --time=40 " in several
    assert "--mem=3072M" in several
    assert "--gpus=2" in report
    assert "/m.yaml --store" in report
    assert "--device cuda:all" in report


def test_an_array_waits_for_all_of_the_level_before_and_the_report_for_all(shown: list[str]) -> None:
    fetch, several, whole_host, report = shown
    assert "--dependency" not in fetch
    assert "--dependency=afterany:<00>" in whole_host
    assert "--dependency=afterany:<00>" in several
    assert "--dependency=afterany:<00>:<01>:<02>" in report


def test_groups_are_by_level_and_by_what_is_asked_for_the_longest_first() -> None:
    found = groups(read_jobs(map(json.dumps, GPU_PLAN)))
    assert [(group.level, [job.stage for job in group.jobs]) for group in found] == [
        (0, ["fetch/m"]),
        (1, ["evaluate/long", "evaluate/short"]),
        (1, ["benchmark/m"]),
    ]


def _lives(process: int) -> bool:
    """A process that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
