"""Who computes where: devices are shared between untimed stages and held alone by timed ones, host-wide."""

import os
import tempfile
import threading
from contextlib import AbstractContextManager
from pathlib import Path

from orchestrator.planning import Stage
from orchestrator.store import locks


def device_lock_path(name: str) -> Path:
    """The host-wide lock of a device, the same for every orchestrator of this user."""
    return Path(tempfile.gettempdir()) / f"llmcbench-{os.getuid()}" / f"device-{name}.lock"


def hold_device(stage: Stage, cancel: threading.Event) -> AbstractContextManager[None]:
    """Hold the stage's device: alone when the stage is timed, together with other untimed stages otherwise."""
    name = stage.device.uuids[0] if stage.device.uuids else stage.device.kind.value
    return locks.hold(device_lock_path(name), shared=not stage.timed, cancel=cancel)
