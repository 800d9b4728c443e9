"""A process sees the devices of its request and no others: a library that takes the first one then takes the right one.

A GPU that is named but not the current one is a trap: a CUDA graph or a kernel of Triton's goes to the current one, and
times nothing. So it is settled by the environment, before torch is there; `harness.models.loading` checks it again.
"""

import os
import re
import sys

from harness.contract import VISIBLE_GPUS, Device, DeviceKind
from harness.errors import BadRequest

_GPU_NAME = re.compile(r"(GPU|MIG)-\S+")


def see_only(device: Device) -> None:
    """Hide every other device from this process, and from those that it starts.

    Raises:
        BadRequest: a GPU is named by something other than its UUID, or torch is already there and may have looked.
    """
    unclear = [name for name in device.uuids if not _GPU_NAME.fullmatch(name)]
    if unclear:
        raise BadRequest(
            f"{unclear[0]!r} is no UUID of a GPU (GPU-...) or of a part of one (MIG-...)",
            hint="numbers depend on who counts; `nvidia-smi -L` lists the UUIDs",
        )
    wanted = device.variables(os.environ)
    if wanted.items() <= os.environ.items():
        return
    if device.kind is DeviceKind.CUDA and "torch" in sys.modules:
        raise BadRequest(
            f"torch was loaded before the device was known, and may have seen other GPUs than {wanted[VISIBLE_GPUS]}",
            hint=f"start the worker with {VISIBLE_GPUS}={wanted[VISIBLE_GPUS]}",
        )
    os.environ.update(wanted)
