"""Who computes where: devices are shared between untimed stages and held alone by timed ones, host-wide.

On request a timed stage has its whole host alone, too.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from orchestrator.errors import BadManifest
from orchestrator.host import locks
from orchestrator.host.devices import ALL_GPUS, choose_device
from orchestrator.stages import Stage

_HOST = "host"
_WAITS_TO_BE_ALONE = "it is timed, and something else of yours computes there"
_WAITS_FOR_A_TIMED_ONE = "something of yours is being timed there"


def device_lock_path(name: str) -> Path:
    """The host-wide lock of a device, or of the host itself, the same for every orchestrator of this user."""
    return Path(tempfile.gettempdir()) / f"llmcbench-{os.getuid()}" / f"device-{name}.lock"


@contextmanager
def hold_devices(stage: Stage, cancel: threading.Event, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the stage's devices: alone when the stage is timed, together with other untimed stages otherwise.

    The host is held before them, alone by a stage that asks for that. They are taken in one order by everyone, so that
    two orchestrators never wait for each other. Who waits for one keeps its queue, so that stages that follow each
    other elsewhere do not keep out for ever who needs it alone. `note` is told of what is not free.

    Raises:
        Interrupted: `cancel` was set while waiting.
    """
    with ExitStack() as held:
        for name, alone in ((_HOST, stage.host_alone), *((name, stage.timed) for name in sorted(stage.device_names))):
            path, why = device_lock_path(name), _WAITS_TO_BE_ALONE if alone else _WAITS_FOR_A_TIMED_ONE
            waiting = partial(note, f"{stage.id}: waits until {name} is free: {why}")
            with locks.hold(path.with_suffix(".queue"), cancel=cancel, on_wait=waiting):
                held.enter_context(locks.hold(path, shared=not alone, cancel=cancel, on_wait=waiting))
        yield


def on_gpus_here(stage: Stage, model: str) -> Stage:
    """The stage with the GPUs that this process sees, which are any of the model that was planned for.

    Raises:
        BadManifest: they are of another model, or fewer than the stage takes.
    """
    if stage.gpus == 0:
        return stage
    here = choose_device(ALL_GPUS)
    if here.model != model:
        raise BadManifest(
            f"{stage.id} is planned for {model}, and here is {here.model}",
            hint="start it on a host of that model, or plan for this one",
        )
    if len(here.device.uuids) < stage.device_count:
        raise BadManifest(
            f"{stage.id} takes {stage.device_count} GPUs, and {len(here.device.uuids)} are there for this process",
            hint="give this process as many as `gpus` in `plan --jsonl` says",
        )
    return stage.on(here.device.uuids)


def is_idle(name: str) -> bool:
    """Whether nobody computes on a device at this instant."""
    with locks.attempt(device_lock_path(name)) as idle:
        return idle


def is_timed() -> bool:
    """Whether something of this user is being timed that work on this machine's processor would disturb.

    That is what has the processor to itself, and what has the whole host.
    """
    return any(locks.is_held(device_lock_path(name), alone=True) for name in (_HOST, "cpu"))
