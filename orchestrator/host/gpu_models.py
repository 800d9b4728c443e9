"""GPUs that a plan can be made for without having one: names as drivers tell them, memory as data sheets do."""

import re
from dataclasses import dataclass

from harness.contract import Device, DeviceKind, unknown
from orchestrator.errors import BadManifest
from orchestrator.host.devices import ChosenDevice

_FORM = re.compile(r"cuda:(?!all$)([A-Za-z][\w-]*)", re.ASCII | re.IGNORECASE)
_MEMORY = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?(?:GiB|GB)", re.ASCII | re.IGNORECASE)
MOST_GPUS = 64


@dataclass(frozen=True)
class GpuModel:
    """`name` is what the driver calls it. `memory_gib` is of the data sheet `source`, whose GB count 2^30 bytes."""

    name: str
    memory_gib: int
    source: str


GPU_MODELS = {
    "H200": GpuModel("NVIDIA H200", 141, "NVIDIA H200 Tensor Core GPU, datasheet"),
    "H100": GpuModel("NVIDIA H100 80GB HBM3", 80, "NVIDIA H100 Tensor Core GPU, datasheet, SXM"),
    "A100-80GB": GpuModel("NVIDIA A100-SXM4-80GB", 80, "NVIDIA A100 Tensor Core GPU, datasheet"),
    "A100-40GB": GpuModel("NVIDIA A100-SXM4-40GB", 40, "NVIDIA A100 Tensor Core GPU, datasheet"),
    "A800": GpuModel("NVIDIA A800-SXM4-80GB", 80, "NVIDIA A800 Tensor Core GPU, datasheet"),
    "L40S": GpuModel("NVIDIA L40S", 48, "NVIDIA L40S GPU, datasheet"),
    "L4": GpuModel("NVIDIA L4", 24, "NVIDIA L4 Tensor Core GPU, datasheet"),
    "RTX4090": GpuModel("NVIDIA GeForce RTX 4090", 24, "GeForce RTX 4090, specifications at nvidia.com"),
}


def names_gpu_model(requested: str) -> bool:
    """Whether a device is asked for by the name of a model, as `cuda:H200`."""
    return _FORM.fullmatch(requested) is not None


def planned_device(requested: str | None, memory: str | None, count: int = 1) -> ChosenDevice | None:
    """A device that need not be there, by a GPU's model, by its memory, or both; None where neither is given.

    Raises:
        BadManifest: no such model is known, the memory is no number of GiB, or another device than a model's name is
            given beside the memory.
    """
    by_name = requested is not None and names_gpu_model(requested)
    if memory is None and not by_name:
        if count != 1:
            raise BadManifest("a number of devices needs a GPU to plan for", hint="add --device cuda:H200")
        return None
    if not by_name and requested not in (None, "cuda"):
        raise BadManifest(
            f"--gpu-memory is of a GPU to plan for, and {requested!r} is none",
            hint="leave the device out, or name a model of GPU, such as cuda:H200",
        )
    if not 1 <= count <= MOST_GPUS:
        raise BadManifest(f"{count} GPUs cannot be planned for", hint=f"give a number from 1 to {MOST_GPUS}")
    model = _model(requested) if requested is not None and by_name else None
    size = _gib(memory) if memory is not None else float(model.memory_gib if model else 0)
    name = model.name if model else "an NVIDIA GPU"
    source = f"by {model.source}" if model and memory is None else "as given"
    what = f"{count} x {name}" if count > 1 else name
    spread = ", each stage on whichever is free" if count > 1 else ""
    device = Device(kind=DeviceKind.CUDA, uuids=tuple(f"GPU-planned-{number}" for number in range(1, count + 1)))
    reason = f"{what} with {size:g} GiB{' each' if count > 1 else ''} ({source}){spread}: planned for, not looked for"
    return ChosenDevice(device, name, reason, memory_bytes=int(size * 2**30))


def _model(requested: str) -> GpuModel:
    wanted = requested.partition(":")[2]
    found = next((model for name, model in GPU_MODELS.items() if name.lower() == wanted.lower()), None)
    if found is None:
        raise BadManifest(
            unknown("model of GPU", wanted, GPU_MODELS),
            hint=f"known are {', '.join(GPU_MODELS)}; of another one give the memory: --gpu-memory 80GiB",
        )
    return found


def _gib(memory: str) -> float:
    match = _MEMORY.fullmatch(memory.strip())
    if match is None or not float(match[1]):
        raise BadManifest(f"{memory!r} is no size of a GPU's memory", hint="write it as 80GiB")
    return float(match[1])
