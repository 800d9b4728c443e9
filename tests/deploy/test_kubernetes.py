"""The Jobs of a manifest for Kubernetes: held against the schemas that it publishes, and applied in their order."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.kubernetes.generate import MOST_STAGES_OF_A_JOB, parts
from deploy.plan import Asks, Group, Job
from tests.deploy.plans import planning

GENERATE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "generate.py"
VERSIONS = ("1.33", "1.37")
"""The first in which all that is asked of a Job is stable, and the last that is known."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is written for a plan on GPUs."""
    program = planning(tmp_path)
    words = ["My_Manifest.yaml", "jobs", "--store", "/store", "--device", "cuda:H200", "--devices", "2"]
    words += ["--image", "registry/llmcbench:1", "--claim", "store", "--data-claim", "data", "--namespace", "bench"]
    words += ["--node-selector", "nvidia.com/gpu.product=NVIDIA-H200", "--cpus", "8", "--most", "1"]
    words += ["--manifest-there", "/store/m.yaml", "--orchestrator", str(program)]
    done = subprocess.run(
        [sys.executable, str(GENERATE), *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4 stages in 3 Jobs of 2 levels: jobs/apply.sh\n"
    return tmp_path / "jobs"


def items(folder: Path, level: int) -> list[dict[str, Any]]:
    document = json.loads((folder / f"level-{level:03}.json").read_text())
    assert document["kind"] == "List"
    return list(document["items"])


def job(folder: Path, level: int, place: int = 0) -> dict[str, Any]:
    return [one for one in items(folder, level) if one["kind"] == "Job"][place]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_as_the_published_schemas_have_it(folder: Path, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    found = [one for path in sorted(folder.glob("*.json")) for one in json.loads(path.read_text())["items"]]
    assert [one["kind"] for one in found] == ["ConfigMap", "Job"] * 3 + ["Job"]
    for document in found:
        assert validate(document, version, strict=True)
    broken = found[1] | {"spec": found[1]["spec"] | {"completionmode": "Indexed"}}
    with pytest.raises(Exception, match="completionmode"):
        validate(broken, version, strict=True)


def test_a_pod_performs_the_stage_of_its_index(folder: Path, tmp_path: Path) -> None:
    names, _ = items(folder, 1)[:2]
    (container,) = job(folder, 1)["spec"]["template"]["spec"]["containers"]
    said = tmp_path / "said"
    program = tmp_path / "bin" / "orchestrator"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {said}\nexit 3\n', encoding="ascii")
    program.chmod(0o755)
    (tmp_path / "stages").write_text(names["data"]["stages"], encoding="utf-8")
    command = [word.replace("/plan/stages", str(tmp_path / "stages")) for word in container["command"]]
    variables = {"PATH": f"{program.parent}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": "1"}
    assert subprocess.run(command, env=variables, check=False).returncode == 3
    assert said.read_text().split() == [
        *("run-stage", "/store/m.yaml", "--store", "/store", "--device", "cuda:H200", "--devices", "2"),
        *("--progress", "plain", "evaluate/short"),
    ]


def test_a_job_asks_for_what_its_stages_take(folder: Path) -> None:
    evaluations, benchmark = job(folder, 1), job(folder, 1, 1)
    assert (evaluations["spec"]["completions"], evaluations["spec"]["parallelism"]) == (2, 1)
    pod = evaluations["spec"]["template"]["spec"]
    asked = {"nvidia.com/gpu": "2", "memory": str(3 * 2**30), "cpu": "8"}
    assert pod["containers"][0]["resources"] == {"limits": asked, "requests": asked}
    assert pod["activeDeadlineSeconds"] == 2400
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H200"}
    assert "affinity" not in pod
    assert "podAntiAffinity" in benchmark["spec"]["template"]["spec"]["affinity"]
    fetching = job(folder, 0)["spec"]["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in fetching["resources"]["limits"]
    last = job(folder, 2)["spec"]["template"]["spec"]["containers"][0]
    assert last["command"][:3] == ["orchestrator", "run", "/store/m.yaml"]
    assert last["command"][-4:] == ["--device", "cuda:all", "--progress", "plain"]
    assert last["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_a_stage_that_fails_is_not_tried_again_and_a_lost_pod_does_not_count(folder: Path) -> None:
    disruption, own_end = job(folder, 0)["spec"]["podFailurePolicy"]["rules"]
    assert disruption == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert own_end["action"] == "FailIndex"
    assert own_end["onExitCodes"]["values"] == [2, 3]


def test_a_level_is_applied_when_the_one_before_has_ended_with_failures_or_without(
    folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "kubectl.log"
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(
        f'#!/bin/sh\necho "$1 $2 $3" >> {log}\n'
        'case "$3" in *-001) echo FailureTarget Failed;; *) echo Complete;; esac\n',
        encoding="ascii",
    )
    kubectl.chmod(0o755)
    subprocess.run(["sh", str(folder / "apply.sh")], env={"PATH": f"{kubectl.parent}:/usr/bin:/bin"}, check=True)
    name = "get job llmcbench-my-manifest"
    assert log.read_text().splitlines() == [
        *("apply -f level-000.json", f"{name}-000", "apply -f level-001.json", f"{name}-001", f"{name}-002"),
        *("apply -f level-002.json", f"{name}-report"),
    ]


def test_a_job_has_no_more_stages_than_their_names_have_room_for() -> None:
    asks = Asks(0, False, None, 60.0)
    jobs = tuple(Job(f"stage-{number}", (), asks, 0.0) for number in range(2 * MOST_STAGES_OF_A_JOB + 1))
    cut = list(parts(Group(0, asks, jobs)))
    assert [len(part.jobs) for part in cut] == [MOST_STAGES_OF_A_JOB, MOST_STAGES_OF_A_JOB, 1]
    assert tuple(one for part in cut for one in part.jobs) == jobs
