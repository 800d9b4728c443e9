"""Who computes where: devices are shared between untimed stages and held alone by timed ones, host-wide."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.planning import Stage
from orchestrator.store import locks


def device_lock_path(name: str) -> Path:
    """The host-wide lock of a device, the same for every orchestrator of this user."""
    return Path(tempfile.gettempdir()) / f"llmcbench-{os.getuid()}" / f"device-{name}.lock"


@contextmanager
def hold_devices(stage: Stage, cancel: threading.Event) -> Iterator[None]:
    """Hold the stage's devices: alone when the stage is timed, together with other untimed stages otherwise.

    They are taken in one order by everyone, so that two orchestrators never wait for each other.

    Raises:
        Interrupted: `cancel` was set while waiting.
    """
    with ExitStack() as held:
        for name in sorted(stage.device_names):
            held.enter_context(locks.hold(device_lock_path(name), shared=not stage.timed, cancel=cancel))
        yield
