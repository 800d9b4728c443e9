#!/usr/bin/env python3
"""Submits a manifest to Slurm: arrays of jobs, level by level of its plan, and a job that makes record and report.

    deploy/slurm/submit.py MANIFEST --store /shared/store --device cuda:H200 --option=--partition=gpu

An array starts when all of the level before have ended, with or without a result: a stage whose needs have none ends at
once. The last job runs what is then left, which is nothing where all went well. Prints the numbers of the jobs; started
again, it submits what is not done yet. docs/clusters.md says what was tried.
"""

import argparse
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from plan import Asks, Group, add_arguments, groups, planned, words_of, words_of_the_end  # noqa: E402

BESIDE_THE_WORKER_BYTES = 2**30
"""The orchestrator's own, and what the engine needs."""
MINUTES_BESIDE_THE_WORKER = 30
"""To make an image ready, and to hash what the stage reads and writes."""


def main() -> int:
    given = arguments()
    jobs = planned(given.orchestrator, given)
    if not jobs:
        print("nothing is to be run")
        return 0
    folder = given.store.absolute() / "slurm" / time.strftime("%Y%m%d-%H%M%S")
    if not given.dry_run:
        folder.mkdir(parents=True)
    submitted: dict[int, list[str]] = {}
    run_stage = [*shlex.split(given.orchestrator), "run-stage", str(given.manifest.absolute()), *words_of(given)]
    for number, group in enumerate(groups(jobs)):
        stages = folder / f"{number:02}.stages"
        command = [
            *("sbatch", "--parsable", f"--job-name=llmcbench-{number:02}", f"--output={folder}/{number:02}_%a.log"),
            *("--requeue", "--open-mode=append", array(group, given.most)),
            *asked(group.asks, given),
            *after(submitted.get(group.level - 1, [])),
            *given.option,
            *(str(HERE / "stage.sh"), str(stages), *run_stage, "--progress", "plain"),
        ]
        if given.dry_run:
            job = f"<{number:02}>"
            print(shlex.join(command))
        else:
            stages.write_text("".join(f"{job.stage}\n" for job in group.jobs), encoding="utf-8")
            job = submit(command)
            print(f"{job}: {len(group.jobs)} stages of level {group.level}")
        submitted.setdefault(group.level, []).append(job)
    run = [*shlex.split(given.orchestrator), "run", str(given.manifest.absolute()), *words_of_the_end(given)]
    most = max((job.asks.gpus for job in jobs), default=0)
    command = [
        *("sbatch", "--parsable", "--job-name=llmcbench-report", f"--output={folder}/report.log", "--requeue"),
        *("--open-mode=append", *gpu_options(most, given), *cpu_options(given)),
        *after([job for level in submitted.values() for job in level]),
        *given.option,
        "--wrap",
        f"exec {shlex.join([*run, '--progress', 'plain'])}",
    ]
    if given.dry_run:
        print(shlex.join(command))
    else:
        print(f"{submit(command)}: the record and the report")
        print(f"logs: {folder}")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument(
        "--option", action="append", default=[], help="of sbatch, for all jobs: --option=--partition=gpu"
    )
    parser.add_argument(
        "--gpu-option", default="--gpus={gpus}", help="how a job asks for GPUs, such as --gres=gpu:h200:{gpus}"
    )
    parser.add_argument("--cpus", type=int, help="cores of each job; on a CPU they are part of what is measured")
    parser.add_argument("--most", type=int, help="jobs of an array at a time")
    parser.add_argument("--orchestrator", default="orchestrator", help="the command, by a path that all nodes have")
    parser.add_argument("--dry-run", "-n", action="store_true", help="print what would be submitted")
    return parser.parse_args()


def array(group: Group, most: int | None) -> str:
    return f"--array=0-{len(group.jobs) - 1}{f'%{most}' if most else ''}"


def asked(asks: Asks, given: argparse.Namespace) -> list[str]:
    minutes = math.ceil(asks.deadline_seconds / 60) + MINUTES_BESIDE_THE_WORKER
    options = [f"--time={minutes}", *gpu_options(asks.gpus, given), *cpu_options(given)]
    if asks.alone:
        options.append("--exclusive")
    if asks.memory_bytes is not None:
        options.append(f"--mem={math.ceil((asks.memory_bytes + BESIDE_THE_WORKER_BYTES) / 2**20)}M")
    return options


def gpu_options(gpus: int, given: argparse.Namespace) -> list[str]:
    return [given.gpu_option.format(gpus=gpus)] if gpus else []


def cpu_options(given: argparse.Namespace) -> list[str]:
    return [f"--cpus-per-task={given.cpus}"] if given.cpus else []


def after(jobs: list[str]) -> list[str]:
    return [f"--dependency=afterany:{':'.join(jobs)}"] if jobs else []


def submit(command: list[str]) -> str:
    """The number of the job. Ends the program with sbatch's own words and status where that fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout.strip().partition(";")[0]


if __name__ == "__main__":
    sys.exit(main())
