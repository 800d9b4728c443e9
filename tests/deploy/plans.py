"""A plan for GPUs as `plan --jsonl` prints it, as far as schedulers read it, and a command that prints it."""

import json
from pathlib import Path


def planned_stage(name: str, *needs: str, gpus: int = 2, alone: bool = False, **facts: object) -> dict[str, object]:
    stage = {"id": name, "status": "to run", "needs": needs, "after": (), "gpus": gpus, "timed": alone}
    stage |= {"host_alone": alone, "memory_bytes": None, "deadline_seconds": 6 * 3600.0, "estimate": None}
    return stage | facts


BOUNDED = {"memory_bytes": 2 * 2**30, "deadline_seconds": 600.0}
GPU_PLAN = (
    planned_stage("data/c4", gpus=0, status="cached"),
    planned_stage("fetch/m", gpus=0),
    planned_stage("evaluate/short", "fetch/m", "data/c4", **BOUNDED, estimate={"seconds": 5.0}),
    planned_stage("evaluate/long", "fetch/m", **BOUNDED, estimate={"seconds": 50.0}),
    planned_stage("benchmark/m", "fetch/m", gpus=1, alone=True),
)


def planning(folder: Path) -> Path:
    """A program that prints the plan, whatever it is asked, and writes that into the file `asked`."""
    plan = folder / "plan.jsonl"
    plan.write_text("".join(f"{json.dumps(line)}\n" for line in GPU_PLAN), encoding="utf-8")
    program = folder / "orchestrator"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\ncat {plan}\n', encoding="ascii")
    program.chmod(0o755)
    return program
