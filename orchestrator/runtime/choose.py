"""Which runtime a run uses, and why."""

from pathlib import Path

from orchestrator.errors import RuntimeUnavailable
from orchestrator.runtime.docker import DockerRuntime
from orchestrator.runtime.process import ProcessRuntime


def choose_runtime(requested: str, root: Path, *, warm: bool = False) -> tuple[DockerRuntime | ProcessRuntime, str]:
    """The runtime and the reason for it.

    `requested` is `docker`, `process`, or `auto`: Docker where an engine answers, else processes. `root` is the store's
    folder, where the process runtime keeps its environments. `warm` is as in `ProcessRuntime`.

    Raises:
        RuntimeUnavailable: Docker was asked for by name and no engine answers.
    """
    if requested == "process":
        return _processes(root, "asked for", warm=warm)
    try:
        runtime = DockerRuntime()
    except RuntimeUnavailable as unavailable:
        if requested == "docker":
            raise
        return _processes(root, f"{unavailable.message}; isolation is weaker than in containers", warm=warm)
    return runtime, "asked for" if requested == "docker" else "a container engine answers"


def _processes(root: Path, why: str, *, warm: bool) -> tuple[ProcessRuntime, str]:
    runtime = ProcessRuntime(root, warm=warm)
    return runtime, "; ".join(part for part in (why, runtime.remark) if part)
