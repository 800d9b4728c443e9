"""Workers as containers: no network, a read-only root, a user that is not root, no capabilities, the GPUs asked for.

Covered: stdin with end of file, own deadlines, removal on every way out, labels by which a later orchestrator finds
what a killed one left behind. Not covered: building (`orchestrator.images`), and engines on other machines, whose
mounts would have to be shared.
"""

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.contract import DeviceKind, Event
from orchestrator.errors import BadImage, RuntimeUnavailable
from orchestrator.host.owner import Owner
from orchestrator.host.worker_user import worker_user
from orchestrator.images.builds import build_image, find_built
from orchestrator.images.engine import connect, image_id
from orchestrator.images.image import Image
from orchestrator.images.inputs import image_tag
from orchestrator.images.package_sources import HUB_VARIABLES, PackageSources
from orchestrator.images.pruning import name_images
from orchestrator.runtime.attachment import STDERR, STDOUT, Attachment
from orchestrator.runtime.base import Completed, Ending, Invocation, RuntimeName
from orchestrator.runtime.launch import Exit, Launch, Listener, Watch, run_invocation
from orchestrator.runtime.reach import Reach
from orchestrator.runtime.residency import PeakResident, children_of
from orchestrator.runtime.stream import TextLog
from orchestrator.runtime.system_calls import seccomp_profile
from orchestrator.stages import ImageIdentity

if TYPE_CHECKING:
    from docker.types import DeviceRequest, Mount

OWNER_LABEL, RUN_LABEL, STAGE_LABEL = "llmcbench.owner", "llmcbench.run", "llmcbench.stage"
INPUT_FOLDER, OUTPUT_FOLDER = "/in", "/out"
CERTIFICATE_PATH = "/run/llmcbench-ca.crt"
_SCRATCH = "rw,exec,nosuid,nodev,mode=1777,size=2g"
_SHARED_MEMORY = "2g"
_POLL_SECONDS = 0.05
_SIGNALLED = 128


class DockerRuntime:
    """Containers of the engine that `DOCKER_HOST` names.

    Raises:
        RuntimeUnavailable: no engine answers.
    """

    def __init__(self) -> None:
        self._client = connect()
        self._ids: dict[tuple[str, DeviceKind], str] = {}

    @property
    def name(self) -> RuntimeName:
        return RuntimeName.DOCKER

    def prepare(self, image: Image, device: DeviceKind, note: Callable[[str], None]) -> ImageIdentity:
        """Build the image unless one was built from the same files. Raises as `Runtime` says."""
        with engine_errors():
            found = find_built(self._client, image, device)
            if found is None:
                build_image(self._client, image, device, note)
                found = find_built(self._client, image, device)
            if found is None:
                raise BadImage(
                    f"the files of image {image.name!r} changed while it was built", hint="start again when they rest"
                )
            built, identity = found
            self._ids[image.name, device] = image_id(self._client, image_tag(built, device))
            name_images(built, device)
        return identity

    def identity(self, image: Image, device: DeviceKind) -> ImageIdentity | None:
        """The identity of the image that was built from the files as they are now."""
        with engine_errors():
            found = find_built(self._client, image, device)
        return None if found is None else found[1]

    def run(self, invocation: Invocation, on_event: Callable[[Event], None], cancel: threading.Event) -> Completed:
        """Run one invocation; see `Runtime.run`."""
        inputs = {name: f"{INPUT_FOLDER}/{name}" for name in invocation.inputs}
        return run_invocation(self, invocation, (inputs, OUTPUT_FOLDER), on_event, cancel)

    def launch(self, work: Launch, stdout: Listener, stderr: Path, cancel: threading.Event) -> Exit:
        """Run the worker in a new container and remove it.

        Raises:
            RuntimeUnavailable: the image is not prepared, or the engine refuses or stops answering.
        """
        found = self._ids.get((work.image.name, work.device.kind))
        if found is None:
            raise RuntimeUnavailable(f"image {work.image.name!r} is not prepared", hint="call prepare() first")
        name = f"llmcbench-{secrets.token_hex(8)}"
        with engine_errors(), stderr.open("wb") as file, TextLog(file, work.secrets) as log:
            try:
                return self._supervise(found, name, work, stdout, log, cancel)
            finally:
                self._remove(name)

    def close(self) -> None:
        """Nothing is kept ready: each worker is a container of its own."""

    def sweep(self) -> tuple[str, ...]:
        """Remove the containers whose orchestrator is dead."""
        swept = []
        with engine_errors():
            for container in self._client.containers.list(all=True, filters={"label": OWNER_LABEL}):
                try:
                    owner = Owner.model_validate_json(container.labels[OWNER_LABEL])
                except ValidationError:
                    continue  # not one of ours
                if owner.is_dead():
                    self._remove(str(container.id))
                    swept.append(f"container {container.name} for stage {container.labels.get(STAGE_LABEL, '?')}")
        return tuple(swept)

    def _supervise(
        self,
        image: str,
        name: str,
        work: Launch,
        stdout: Listener,
        log: TextLog,
        cancel: threading.Event,
    ) -> Exit:
        watch, memory = Watch(work.limits, cancel, stdout, work.output), PeakResident()
        container = self._client.containers.create(image, name=name, **container_options(work))
        streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        with _raw_socket(container.attach_socket(params=streams)) as connection:
            sinks: dict[int, Callable[[bytes], object]] = {STDOUT: stdout.feed, STDERR: log.feed}
            attachment = Attachment(connection, work.stdin, sinks, hold_stdin=work.hold_stdin)
            container.start()
            process = int(self._state(name)["Pid"])
            while attachment.pump(_POLL_SECONDS):
                self._demand(name, watch, _sample(memory, process, str(container.id)), attachment)
        while (state := self._state(name))["Running"]:  # it has closed its output, but goes on
            self._demand(name, watch, _sample(memory, process, str(container.id)))
            time.sleep(_POLL_SECONDS)
        return _exit(state, watch, memory)

    def _demand(self, name: str, watch: Watch, held_bytes: int | None, attachment: Attachment | None = None) -> None:
        """Send the signal that is due. A kill returns once all output was taken, so nobody is attached by then."""
        if (number := watch.due(held_bytes)) is not None:
            if number is signal.SIGKILL and attachment is not None:
                attachment.leave()
            self._signal(name, number)

    def _signal(self, name: str, number: signal.Signals) -> None:
        from docker.errors import APIError, NotFound

        try:
            self._client.api.kill(name, signal=number.name)
        except NotFound:
            return
        except APIError as refusal:
            if refusal.status_code != 409:  # 409: it has just ended
                raise

    def _remove(self, name: str) -> None:
        from docker.errors import APIError, NotFound

        try:
            self._client.api.remove_container(name, force=True, v=True)
        except NotFound:
            return
        except APIError as refusal:
            if refusal.status_code != 409:  # 409: its removal is in progress
                raise

    def _state(self, name: str) -> dict[str, Any]:
        return dict(self._client.api.inspect_container(name)["State"])


def container_options(work: Launch) -> dict[str, Any]:
    """How a worker's container is created: what it may see, use and do."""
    from docker.types import LogConfig

    sources = PackageSources.configured()
    network = "none" if work.reach is Reach.NOTHING else "host" if sources.uses_loopback else "bridge"
    uid, gid = work.user or worker_user()
    memory = work.limits.most_memory_bytes
    return {
        "stdin_open": True,
        "detach": False,  # else the engine keeps stdin open when its writer is done, and the worker waits for ever
        "user": f"{uid}:{gid}",
        "network_mode": network,
        "read_only": True,
        "tmpfs": {"/tmp": _SCRATCH},  # noqa: S108  inside the container
        "shm_size": _SHARED_MEMORY,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true", f"seccomp={seccomp_profile()}"],
        "pids_limit": work.limits.processes,
        "mem_limit": memory,
        "memswap_limit": memory,
        "init": True,
        "log_config": LogConfig(type="none"),
        "labels": {OWNER_LABEL: Owner.current().model_dump_json(), RUN_LABEL: work.run, STAGE_LABEL: work.stage},
        "environment": _variables(work, sources),
        "mounts": _mounts(work, sources),
        "device_requests": _gpus(work),
    }


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn what the SDK and its HTTP client raise into `RuntimeUnavailable`."""
    import requests
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as refusal:
        message = str(refusal.explanation or refusal)
        hint = "see the engine's log (journalctl -u docker)"
        if "could not select device driver" in message:
            hint = (
                "with an NVIDIA GPU here, install the NVIDIA container toolkit, then `nvidia-ctk runtime configure` and"
                " restart the engine; without one, ask for the cpu"
            )
        elif "seccomp" in message:
            hint = "its kernel cannot keep workers from system calls (docs/security.md): run it on one with seccomp"
        raise RuntimeUnavailable(f"the container engine refused: {message}", hint=hint) from refusal
    except (DockerException, requests.RequestException) as failure:
        raise RuntimeUnavailable(
            f"the container engine stopped answering: {failure}", hint="check that Docker is running (`docker info`)"
        ) from failure


def _mounts(work: Launch, sources: PackageSources) -> list["Mount"]:
    from docker.types import Mount

    folders = {f"{INPUT_FOLDER}/{name}": path.resolve() for name, path in work.inputs.items()}
    if work.reach is not Reach.NOTHING:
        folders |= {str(folder): folder.resolve() for folder in sources.wheel_folders}
        if sources.certificate is not None:
            folders[CERTIFICATE_PATH] = sources.certificate.resolve()
    mounts = [Mount(target, str(source), type="bind", read_only=True) for target, source in folders.items()]
    if work.output is not None:
        mounts.append(Mount(OUTPUT_FOLDER, str(work.output.resolve()), type="bind"))
    return mounts


def _variables(work: Launch, sources: PackageSources) -> dict[str, str]:
    variables = work.variables({})
    if work.reach is not Reach.NOTHING:
        variables |= dict(sources.proxies)
        variables |= sources.pip_environment(certificate=CERTIFICATE_PATH, shares_files=False)
        if work.reach is Reach.HUB:
            variables |= {name: os.environ[name] for name in HUB_VARIABLES if name in os.environ}
        if sources.certificate is not None:
            variables |= {"SSL_CERT_FILE": CERTIFICATE_PATH, "REQUESTS_CA_BUNDLE": CERTIFICATE_PATH}
    return variables | dict(work.environment)


def _gpus(work: Launch) -> list["DeviceRequest"]:
    from docker.types import DeviceRequest

    if work.device.kind is not DeviceKind.CUDA:
        return []
    if work.device.uuids:
        return [DeviceRequest(device_ids=list(work.device.uuids), capabilities=[["gpu"]])]
    return [DeviceRequest(count=1, capabilities=[["gpu"]])]


@contextmanager
def _raw_socket(stream: Any) -> Iterator[socket.socket]:
    """The socket behind what `attach_socket` returns, closed at the end."""
    try:
        yield getattr(stream, "_sock", stream)
    finally:
        stream.close()


def _sample(memory: PeakResident, init: int, container: str) -> int | None:
    """What the worker, the child of the container's init, holds; None where its processes cannot be seen."""
    if init <= 0 or not _belongs_to(init, container):
        return None
    readings = [reading for pid in children_of(init) if (reading := memory.sample(pid)) is not None]
    return max(readings, default=None)


def _belongs_to(pid: int, container: str) -> bool:
    """True when the process id names that container's process here, as it does unless the engine is elsewhere."""
    try:
        return container in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return False


def _exit(state: dict[str, Any], watch: Watch, memory: PeakResident) -> Exit:
    code = int(state["ExitCode"])
    exit_code = _SIGNALLED - code if code > _SIGNALLED else code
    ending = watch.ending
    if ending is Ending.EXITED and state.get("OOMKilled") and exit_code != 0:
        ending = Ending.KILLED_FOR_MEMORY
    return Exit(ending, exit_code, watch.wall_seconds, memory.peak_bytes)
