"""What a run is resolved to: all that must be equal for a command to go on with an unfinished run, and the commit."""

import re
import subprocess
from collections.abc import Mapping

from harness.contract import CONTRACT_VERSION, Sha256, digest_of, harness_digest, harness_folder
from orchestrator.host.devices import ChosenDevice
from orchestrator.installation import installed_version
from orchestrator.stages import Plan, StageOutput
from orchestrator.store import RunFacts

_GIT_SECONDS = 20.0
_COMMITS_SINCE = re.compile(r"\.dev\d+")


def resolve_facts(
    asked: Sha256, plan: Plan, runtime: str, device: ChosenDevice, data: str, images: Mapping[str, str]
) -> RunFacts:
    """The facts of a run. `asked` is the digest of what is asked for; `images` says what exactly runs, by image and
    device kind, `data` where data comes from."""
    return RunFacts(
        manifest_digest=asked,
        plan_digest=_plan_digest(plan),
        runtime=runtime,
        device_model=device.model,
        devices=max(1, len(device.device.uuids)),
        threads=device.device.threads,
        data=data,
        version=program_version(),
        contract=CONTRACT_VERSION,
        harness_digest=harness_digest(),
        images=dict(images),
        commit=checkout_commit(),
    )


def _plan_digest(plan: Plan) -> str:
    """Of the stages and what each reads. Folders of this host are in it by the digests in the parameters."""
    stages = [
        {
            "id": stage.id,
            "image": stage.image,
            "operation": stage.operation.value,
            "parameters": stage.parameters.model_dump(mode="json"),
            "turn": stage.turn.model_dump(mode="json") if stage.turn else None,
            "inputs": {n: one.stage for n, one in stage.inputs.items() if isinstance(one, StageOutput)},
        }
        for stage in plan.stages
    ]
    return digest_of({"stages": stages, "not_planned": [one.model_dump(mode="json") for one in plan.not_planned]})


def program_version() -> str | None:
    """The installed version, `0.2.1.dev0` for any state on the way to 0.2.1; None where none is installed.

    How many commits lie between is left out: another commit alone begins no new record, and the record names it.
    """
    known = installed_version()
    return known and _COMMITS_SINCE.sub(".dev0", known)


def checkout_commit() -> str | None:
    """The commit of the checkout that this program lies in, `-dirty` behind it where files differ from it.

    None where it lies in none, or where git is not installed or does not answer.
    """
    project = harness_folder().parent
    if not (project / ".git").exists():
        return None
    command = ["git", "-C", str(project), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
