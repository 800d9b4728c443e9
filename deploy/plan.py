"""A plan as other schedulers need it: which jobs there are, what each asks for, and what comes before it.

Read from `orchestrator plan --jsonl` (docs/clusters.md has the fields). Python's own library is enough for it.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Asks:
    """What a job asks its scheduler for. `alone`: a whole host; `memory_bytes` None: what it gives by default."""

    gpus: int
    alone: bool
    memory_bytes: int | None
    deadline_seconds: float


@dataclass(frozen=True)
class Job:
    """A stage that is to be run, `before` are those of the plan that have to have ended."""

    stage: str
    before: tuple[str, ...]
    asks: Asks
    expected_seconds: float


@dataclass(frozen=True)
class Group:
    """Jobs that ask for the same, none of which waits for another; all that they wait for is of lower levels."""

    level: int
    asks: Asks
    jobs: tuple[Job, ...]


def read_jobs(lines: Iterable[str]) -> list[Job]:
    """The stages that are to be run, from the lines of `plan --jsonl`."""
    return [_job(stage) for stage in map(json.loads, lines) if stage["status"] == "to run"]


def _job(stage: Mapping[str, object]) -> Job:
    estimate = stage["estimate"] or {}
    on_cpu = stage["gpus"] == 0
    asks = Asks(
        gpus=stage["gpus"],
        alone=stage["host_alone"] or (stage["timed"] and on_cpu),
        memory_bytes=stage["memory_bytes"],
        deadline_seconds=stage["deadline_seconds"],
    )
    return Job(stage["id"], (*stage["needs"], *stage["after"]), asks, estimate.get("seconds") or 0.0)


def groups(jobs: Sequence[Job]) -> list[Group]:
    """By levels, in each those that ask for the same, what takes longest first. `jobs` come after what they need."""
    level: dict[str, int] = {}
    for job in jobs:
        level[job.stage] = 1 + max((level[one] for one in job.before if one in level), default=-1)
    together: dict[tuple[int, Asks], list[Job]] = {}
    for job in sorted(jobs, key=lambda job: (level[job.stage], -job.expected_seconds)):
        together.setdefault((level[job.stage], job.asks), []).append(job)
    return [Group(number, asks, tuple(found)) for (number, asks), found in together.items()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every scheduler's script is told."""
    parser.add_argument("manifest", type=Path, help="the manifest, by a path that is the same where its stages run")
    parser.add_argument("--store", type=Path, required=True, help="the store, by a path that all nodes have")
    parser.add_argument("--device", help="as of `plan`: cpu, cuda, or cuda:H200 for nodes that have this model")
    parser.add_argument("--devices", type=int, default=1, help="GPUs of a node, where --device names a model")
    parser.add_argument("--runtime", help="docker or process")


def words_of(given: argparse.Namespace) -> list[str]:
    """What `plan` and `run-stage` are told alike."""
    words = ["--store", str(given.store.absolute())]
    if given.device:
        words += ["--device", given.device]
    if given.devices != 1:
        words += ["--devices", str(given.devices)]
    return [*words, *(["--runtime", given.runtime] if given.runtime else [])]


def words_of_the_end(given: argparse.Namespace) -> list[str]:
    """What the `run` is told that makes the record and the report, on a host that has the device."""
    words = ["--store", str(given.store.absolute())]
    if given.device:
        words += ["--device", "cuda:all" if given.device.lower().startswith("cuda:") else given.device]
    return [*words, *(["--runtime", given.runtime] if given.runtime else [])]


def planned(orchestrator: str, given: argparse.Namespace) -> list[Job]:
    """The jobs of a manifest. Ends the program with the command's own words and status where that fails."""
    command = [*shlex.split(orchestrator), "plan", str(given.manifest.absolute()), "--jsonl", *words_of(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return read_jobs(done.stdout.splitlines())
