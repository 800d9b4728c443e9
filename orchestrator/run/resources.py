"""Who computes where: devices are shared between untimed stages and held alone by timed ones, host-wide."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from orchestrator.host import locks
from orchestrator.stages import Stage


def device_lock_path(name: str) -> Path:
    """The host-wide lock of a device, the same for every orchestrator of this user."""
    return Path(tempfile.gettempdir()) / f"llmcbench-{os.getuid()}" / f"device-{name}.lock"


@contextmanager
def hold_devices(stage: Stage, cancel: threading.Event, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the stage's devices: alone when the stage is timed, together with other untimed stages otherwise.

    They are taken in one order by everyone, so that two orchestrators never wait for each other. Who waits for a device
    keeps its queue, so that untimed stages that follow each other elsewhere do not keep a timed one out for ever.
    `note` is told of a device that is not free.

    Raises:
        Interrupted: `cancel` was set while waiting.
    """
    with ExitStack() as held:
        for name in sorted(stage.device_names):
            path, shared = device_lock_path(name), not stage.timed
            waiting = partial(note, f"{stage.id}: waits until {name} is free: {_why(stage)}")
            with locks.hold(path.with_suffix(".queue"), cancel=cancel, on_wait=waiting):
                held.enter_context(locks.hold(path, shared=shared, cancel=cancel, on_wait=waiting))
        yield


def _why(stage: Stage) -> str:
    if stage.timed:
        return "it is timed, and something else of yours computes there"
    return "something of yours is being timed there"
