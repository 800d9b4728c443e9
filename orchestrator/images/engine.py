"""The container engine as a builder: the `docker` command with BuildKit, and what it has built already.

The Docker SDK speaks only the old builder, so builds go through the command and everything else through the SDK.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import BadImage, RuntimeUnavailable
from orchestrator.host.narrated import Say, run_narrated

if TYPE_CHECKING:
    from docker import DockerClient

_FIRST_WITHOUT_BUILTIN_BUILDKIT = 23
_TAIL_LINES = 25


@dataclass(frozen=True)
class Build:
    """One `docker build`. `secrets` maps an id to a file, which does not reach the image. `say`: see `run_narrated`."""

    context: Path
    dockerfile: Path
    tag: str
    build_arguments: Mapping[str, str]
    labels: Mapping[str, str]
    target: str | None = None
    network: str = "default"
    secrets: Mapping[str, Path] = field(default_factory=dict)
    force: bool = False
    say: Say | None = None


def connect(*, timeout_seconds: int = 2) -> "DockerClient":
    """A client of the engine that `DOCKER_HOST` names, after it has answered a ping.

    Raises:
        RuntimeUnavailable: no engine answers in time.
    """
    import docker
    import requests
    from docker.errors import DockerException

    hint = "start Docker, or use the process runtime (--runtime process)"
    try:
        probe = docker.from_env(timeout=timeout_seconds)
        try:
            probe.ping()
        finally:
            probe.close()
        return docker.from_env(timeout=600)
    except (DockerException, requests.RequestException) as failure:
        raise RuntimeUnavailable(f"no container engine answers: {_first_line(failure)}", hint=hint) from failure


def image_labels(client: "DockerClient", tag: str) -> dict[str, str] | None:
    """The labels of a local image; None where there is none."""
    from docker.errors import ImageNotFound

    try:
        return dict(client.images.get(tag).labels)
    except ImageNotFound:
        return None


def image_id(client: "DockerClient", tag: str) -> str:
    return str(client.images.get(tag).id)


def build(client: "DockerClient", order: Build) -> None:
    """Build and tag an image with BuildKit. The one that had the tag before goes, unless it has another name.

    Raises:
        BadImage: the build failed; the message ends with what it printed last.
        RuntimeUnavailable: no usable `docker` command.
    """
    before = None if image_labels(client, order.tag) is None else image_id(client, order.tag)
    arguments = [builder_command(), "build", "--progress", "plain", "--tag", order.tag, "--network", order.network]
    arguments += ["--file", str(order.dockerfile)]
    for name, value in order.build_arguments.items():
        arguments += ["--build-arg", f"{name}={value}"]
    for name, value in order.labels.items():
        arguments += ["--label", f"{name}={value}"]
    for name, path in order.secrets.items():
        arguments += ["--secret", f"id={name},src={path}"]
    if order.target is not None:
        arguments += ["--target", order.target]
    if order.force:
        arguments.append("--no-cache")
    done = run_command([*arguments, str(order.context)], order.say)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-_TAIL_LINES:])
        raise BadImage(f"building {order.tag} failed:\n{tail}", hint="the last lines above name the step that failed")
    if before is not None and before != image_id(client, order.tag):
        _remove_nameless(client, before)


def _remove_nameless(client: "DockerClient", identity: str) -> None:
    from docker.errors import APIError

    try:
        if not client.images.get(identity).tags:
            client.images.remove(identity)
    except APIError as refusal:
        if refusal.status_code not in (404, 409):  # it is gone, or a container uses it
            raise


def run_command(arguments: Sequence[str], say: Say | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of the engine to its end, stdout and stderr together in `stdout`. `say`: see `run_narrated`."""
    variables = os.environ | {
        "DOCKER_BUILDKIT": "1",
        "BUILDX_BUILDER": "default",
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
    }
    return run_narrated(arguments, "building", say, environment=variables, merged=True)


@cache
def builder_command() -> str:
    """The first `docker` on PATH that can build with BuildKit.

    Raises:
        RuntimeUnavailable: none can.
    """
    found = list(_commands_on_path())
    for command in found:
        if _has_buildkit(command):
            return command
    what = "no `docker` command is on PATH" if not found else f"{', '.join(found)} cannot use BuildKit"
    raise RuntimeUnavailable(what, hint="install the Docker command line with its buildx plugin")


def _commands_on_path() -> Iterator[str]:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and (command := shutil.which("docker", path=folder)):
            yield command


def _has_buildkit(command: str) -> bool:
    version = _quiet([command, "version", "--format", "{{.Client.Version}}"]).stdout.strip()
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < _FIRST_WITHOUT_BUILTIN_BUILDKIT:
        return True
    return _quiet([command, "buildx", "version"]).returncode == 0


def _quiet(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False)  # noqa: S603  as above


def _first_line(failure: Exception) -> str:
    return (str(failure).splitlines() or [type(failure).__name__])[0]
