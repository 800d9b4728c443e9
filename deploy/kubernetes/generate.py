#!/usr/bin/env python3
"""Writes the Jobs of a manifest for Kubernetes: indexed ones for each level of its plan, and one for record and report.

    deploy/kubernetes/generate.py MANIFEST jobs --store /store --device cuda:H200 --image IMAGE --claim CLAIM
    jobs/apply.sh

`apply.sh` applies a level when all Jobs of the level before have ended, with or without failures. Made again, there are
Jobs for what is not done yet. docs/clusters.md says what the image has to hold, and what was tried.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from plan import Asks, Group, add_arguments, groups, planned, words_of, words_of_the_end  # noqa: E402

MOST_STAGES_OF_A_JOB = 5000
"""Their names have to fit into a ConfigMap, of 1 MiB."""
BESIDE_THE_WORKER_BYTES = 2**30
SECONDS_BESIDE_THE_WORKER = 1800
TRIES = 3
PART_OF = {"app.kubernetes.io/part-of": "llmcbench"}
CONTAINER = "stage"
PLAN_FOLDER = "/plan"
STAGE_OF_THE_INDEX = 'exec "$@" "$(sed -n "$((JOB_COMPLETION_INDEX + 1))p" /plan/stages)"'
APPLY = r"""#!/bin/sh
# Applies the Jobs level by level. Started again, it goes on: what is there already stays as it is.
set -eu
cd "$(dirname "$0")"
ended() {{ kubectl get job "$1" -o 'jsonpath={{.status.conditions[*].type}}' | grep -Eq 'Complete|Failed'; }}
{levels}
"""
LEVEL = """kubectl apply -f {file}
for job in {jobs}; do until ended "$job"; do sleep 10; done; done"""

Document = dict[str, object]


def main() -> int:
    given = arguments()
    jobs = planned(given.orchestrator, given)
    if not jobs:
        print("nothing is to be run")
        return 0
    given.folder.mkdir(parents=True, exist_ok=True)
    found = [part for group in groups(jobs) for part in parts(group)]
    levels: dict[int, list[Document]] = {}
    for number, group in enumerate(found):
        levels.setdefault(group.level, []).extend(documents(number, group, given))
    most = max(job.asks.gpus for job in jobs)
    levels[max(levels) + 1] = [report(Asks(most, False, None, 0.0), given)]
    applied = []
    for level, items in levels.items():
        file = given.folder / f"level-{level:03}.json"
        document = {"apiVersion": "v1", "kind": "List", "items": items}
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        names = [str(item["metadata"]["name"]) for item in items if item["kind"] == "Job"]
        applied.append(LEVEL.format(file=file.name, jobs=" ".join(names)))
    script = given.folder / "apply.sh"
    script.write_text(APPLY.format(levels="\n".join(applied)), encoding="utf-8")
    script.chmod(0o755)
    print(f"{len(jobs)} stages in {len(found)} Jobs of {len(levels) - 1} levels: {script}")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("folder", type=Path, help="where the documents are written")
    parser.add_argument(
        "--image", required=True, help="of the containers: it holds this program, `orchestrator` on PATH"
    )
    parser.add_argument("--claim", required=True, help="the PersistentVolumeClaim of the store, mounted at --store")
    parser.add_argument(
        "--manifest-there", type=Path, help="the manifest as containers see it, where it is another path"
    )
    parser.add_argument("--data-claim", help="that of a folder of data sets, mounted at /data")
    parser.add_argument("--namespace", help="of the documents; else the one that kubectl uses")
    parser.add_argument("--node-selector", action="append", default=[], help="label=value of the nodes, several times")
    parser.add_argument("--gpu-resource", default="nvidia.com/gpu", help="what a node's GPUs are called")
    parser.add_argument("--cpus", type=int, help="cores of each Pod; on a CPU they are part of what is measured")
    parser.add_argument("--most", type=int, help="Pods of a Job at a time")
    parser.add_argument("--user", type=int, default=1000, help="user and group of the containers")
    parser.add_argument("--orchestrator", default="orchestrator", help="the command that plans, here")
    return parser.parse_args()


def parts(group: Group) -> Iterator[Group]:
    """A group in Jobs of no more stages than one may have."""
    for first in range(0, len(group.jobs), MOST_STAGES_OF_A_JOB):
        yield Group(group.level, group.asks, group.jobs[first : first + MOST_STAGES_OF_A_JOB])


def documents(number: int, group: Group, given: argparse.Namespace) -> tuple[Document, Document]:
    """The names of a group's stages, and the Job whose Pods perform one each."""
    name = f"{base_name(given)}-{number:03}"
    stages = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(name, given),
        "data": {"stages": "".join(f"{job.stage}\n" for job in group.jobs)},
    }
    command = ["orchestrator", "run-stage", manifest_there(given), *words_of(given), "--progress", "plain"]
    spec = {
        "completionMode": "Indexed",
        "completions": len(group.jobs),
        "parallelism": min(len(group.jobs), given.most or len(group.jobs)),
        "backoffLimitPerIndex": TRIES,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {
                    "action": "FailIndex",  # the stage's own end, or its needs have none: no other try ends otherwise
                    "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [2, 3]},
                },
            ]
        },
        "template": template(["/bin/sh", "-c", STAGE_OF_THE_INDEX, "sh", *command], group.asks, given, plan=name),
    }
    return stages, {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(name, given), "spec": spec}


def report(asks: Asks, given: argparse.Namespace) -> Document:
    """The Job that makes the record and the report, and does what is left."""
    command = ["orchestrator", "run", manifest_there(given), *words_of_the_end(given), "--progress", "plain"]
    spec = {"backoffLimit": TRIES, "template": template(command, asks, given)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(f"{base_name(given)}-report", given),
        "spec": spec,
    }


def template(command: list[str], asks: Asks, given: argparse.Namespace, plan: str | None = None) -> Document:
    volumes: list[Document] = [{"name": "store", "persistentVolumeClaim": {"claimName": given.claim}}]
    mounts: list[Document] = [{"name": "store", "mountPath": str(given.store)}]
    if given.data_claim:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": given.data_claim, "readOnly": True}})
        mounts.append({"name": "data", "mountPath": "/data", "readOnly": True})
    if plan is not None:
        volumes.append({"name": "plan", "configMap": {"name": plan}})
        mounts.append({"name": "plan", "mountPath": PLAN_FOLDER, "readOnly": True})
    container: Document = {
        "name": CONTAINER,
        "image": given.image,
        "command": command,
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108  the container's own
            *([{"name": "LLMCBENCH_DATA", "value": "/data"}] if given.data_claim else []),
        ],
        "resources": resources(asks, given),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }
    spec: Document = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": volumes,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": given.user,
            "runAsGroup": given.user,
            "fsGroup": given.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if asks.deadline_seconds:
        spec["activeDeadlineSeconds"] = math.ceil(asks.deadline_seconds) + SECONDS_BESIDE_THE_WORKER
    if given.node_selector:
        spec["nodeSelector"] = dict(one.split("=", 1) for one in given.node_selector)
    if asks.alone:
        away = {"labelSelector": {"matchLabels": PART_OF}, "topologyKey": "kubernetes.io/hostname"}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [away]}}
    return {"metadata": {"labels": PART_OF}, "spec": spec}


def resources(asks: Asks, given: argparse.Namespace) -> Mapping[str, Mapping[str, str]]:
    limits = {given.gpu_resource: str(asks.gpus)} if asks.gpus else {}
    if asks.memory_bytes is not None:
        limits["memory"] = str(asks.memory_bytes + BESIDE_THE_WORKER_BYTES)
    if given.cpus:
        limits["cpu"] = str(given.cpus)
    return {"limits": limits, "requests": limits} if limits else {}


def metadata(name: str, given: argparse.Namespace) -> Document:
    return {"name": name, "labels": PART_OF, **({"namespace": given.namespace} if given.namespace else {})}


def manifest_there(given: argparse.Namespace) -> str:
    return str(given.manifest_there or given.manifest)


def base_name(given: argparse.Namespace) -> str:
    """`llmcbench-` and the manifest's file name, of characters that names may have, and short enough for Pods."""
    return f"llmcbench-{re.sub(r'[^a-z0-9]+', '-', given.manifest.stem.lower()).strip('-')[:30]}"


if __name__ == "__main__":
    sys.exit(main())
