"""How many tokens a batch may have: from free memory, and from what keeps the device busy without waste."""

from typing import TYPE_CHECKING, Any

import torch

from harness.contract import DeviceKind

if TYPE_CHECKING:
    from harness.models.loading import LoadedModel

_CPU_TOKENS = 1024
"""Tokens that keep a CPU busy; a larger batch is padded more. See docs/evaluation-speed.md."""
_GPU_OPERATIONS = 2e14
_GPU_TOKENS = range(16384, 131072)
"""A batch's operations, a quarter of a second of a large GPU, and bounds of its tokens."""
_PASS_SHARE = {DeviceKind.CPU: 1 / 4, DeviceKind.CUDA: 1 / 16}
"""Of a full batch, what a forward pass costs however few tokens it has: launches, batches that are not full."""
_FEWEST_TOKENS = 64
_SHARE_OF_FREE_MEMORY = 0.5
_COPIES = 4
"""Tensors of the hidden and of the feed-forward size, each, that a decoder layer holds at once, and room to spare."""


def choose_token_budget(loaded: "LoadedModel") -> tuple[int, int, str]:
    """Tokens of a batch, tokens that fit into memory at once, and the reason in words."""
    kind = DeviceKind(loaded.device.type)
    free = _free_bytes(loaded.device)
    fitting = max(_FEWEST_TOKENS, int(free * _SHARE_OF_FREE_MEMORY) // _bytes_per_token(loaded))
    busy = _CPU_TOKENS if kind is DeviceKind.CPU else gpu_tokens(loaded.model)
    if fitting < busy:
        return fitting, fitting, f"half of the free {free / 2**30:.1f} GiB"
    return busy, fitting, f"enough to keep a {kind.value} device busy"


def pass_tokens(device: torch.device, token_budget: int) -> int:
    """The tokens that could be computed in the time that a forward pass takes beside its tokens."""
    return int(token_budget * _PASS_SHARE[DeviceKind(device.type)])


def gpu_tokens(model: Any) -> int:
    operations = 2 * sum(parameter.numel() for parameter in model.parameters())
    return int(min(_GPU_TOKENS.stop, max(_GPU_TOKENS.start, _GPU_OPERATIONS / operations)))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch, on any device, says that there is no memory left."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        said in text for said in ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def release_cached_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil  # type: ignore[import-untyped]

    return int(psutil.virtual_memory().available)


def _bytes_per_token(loaded: "LoadedModel") -> int:
    model: Any = loaded.model
    config, size = model.config, model.get_input_embeddings().weight.element_size()
    inner = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None) or 4 * config.hidden_size
    return int(_COPIES * size * (config.hidden_size + inner))
