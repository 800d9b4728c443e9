"""Memory before and after: what a model will need, whether that is free, and what a measured peak consisted of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.architectures.shape import Shape
from harness.contract import Memory, MemoryParts, MemoryPrediction
from harness.device_telemetry import memory_of
from harness.errors import OutOfMemory

if TYPE_CHECKING:
    import torch

_GIGABYTE = 1e9
_SINGLE_BYTES = 4
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def predict(
    shape: Shape,
    *,
    weight_bytes: int,
    value_bytes: int,
    kv_tokens: int,
    batch_size: int,
    prompt_tokens: int,
    free_bytes: int | None,
) -> MemoryPrediction:
    """What serving takes: the weights, keys and values of `kv_tokens` positions, and the prompts' widest activations.

    Those are, for each prompt token, two hidden states, one of them in float32 for the norm, beside the larger of the
    attention's tensors and the feed-forward part's; and the logits of one position a sequence, in float32 once more.
    Allocators' gaps and libraries' workspaces are not in it.
    """
    attention = 2 * (shape.heads + shape.key_value_heads) * shape.head_size
    widest = max(attention, shape.mlp_matrices * shape.intermediate_size)
    per_token = shape.hidden_size * (value_bytes + _SINGLE_BYTES) + widest * value_bytes
    logits = batch_size * shape.vocabulary * (value_bytes + _SINGLE_BYTES)
    return MemoryPrediction(
        weight_bytes=weight_bytes,
        kv_cache_bytes=shape.kv_cache_bytes(tokens=kv_tokens, batch_size=1, value_bytes=value_bytes),
        activation_bytes=batch_size * prompt_tokens * per_token + logits,
        free_bytes=free_bytes,
    )


def refuse_if_too_large(prediction: MemoryPrediction) -> None:
    """Refuse what cannot fit, before anything is loaded. Where it is not known what is free, nothing is refused.

    Raises:
        OutOfMemory: more is needed than is free, in numbers.
    """
    free = prediction.free_bytes
    if free is None or prediction.needed_bytes <= free:
        return
    raise OutOfMemory(
        f"out of memory predicted: needs {_gigabytes(prediction.needed_bytes)} (weights"
        f" {_gigabytes(prediction.weight_bytes)}, keys and values {_gigabytes(prediction.kv_cache_bytes)}, activations"
        f" {_gigabytes(prediction.activation_bytes)}), {_gigabytes(free)} free",
        hint="use a smaller batch, fewer tokens, a smaller dtype or model, or a device with more memory",
    )


def free_bytes(device: "torch.device") -> int | None:
    """What the device can still give: on a CPU what the kernel calls available, or what is left to the container."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return min((one for one in (_available_bytes(), _left_in_container()) if one is not None), default=None)


def free_bytes_of_all(uuids: Sequence[str]) -> int:
    """What GPUs can still give to a model that is split evenly over them. Raises as `memory_of` does."""
    return len(uuids) * min(one.free_bytes for one in memory_of(uuids))


def measured_parts(
    peak: Memory, device: "torch.device", *, weight_bytes: int, kv_cache_bytes: int, resident_before_bytes: int
) -> MemoryParts:
    """A peak of a loaded model by what it held. Activations are the rest that is left over."""
    if device.type == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info(device)
        overhead = max(total - free - torch.cuda.memory_reserved(device), 0)
        rest = peak.peak_memory_bytes - weight_bytes - kv_cache_bytes
    else:
        overhead = resident_before_bytes
        rest = peak.peak_memory_bytes - overhead - weight_bytes - kv_cache_bytes
    return MemoryParts(
        weight_bytes=weight_bytes,
        kv_cache_bytes=kv_cache_bytes,
        activation_bytes=max(rest, 0),
        overhead_bytes=overhead,
    )


def tensor_bytes(model: Any) -> int:
    """Bytes of a loaded model's parameters and buffers, shared ones once, and of what modules say they hold besides."""
    tensors = [*model.parameters(), *model.buffers()]
    sizes: list[int] = list({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())
    return sum(sizes) + sum(int(getattr(module, "held_bytes", 0)) for module in model.modules())


def _gigabytes(count: int) -> str:
    return f"{count / _GIGABYTE:.1f} GB"


def _available_bytes() -> int | None:
    fields = _fields(_MEMINFO)
    return fields["MemAvailable"] * 1024 if "MemAvailable" in fields else None


def _left_in_container() -> int | None:
    """Of a memory limit (cgroup 2), with cached files counted as free; None where there is no limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except OSError:
        return None
    if limit == "max":
        return None
    return max(int(limit) - used + _fields(_CGROUP / "memory.stat").get("inactive_file", 0), 0)


def _fields(path: Path) -> Mapping[str, int]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    words = (line.replace(":", " ").split() for line in lines)
    return {one[0]: int(one[1]) for one in words if len(one) > 1 and one[1].isdigit()}
