"""The least time that each method's arithmetic and transfers would take at the rates this device was measured at.

Counted: the calibration forwards, the second-order statistics and their factorisation, the searches, the transfer of
the weights to the device and back. Not counted: attention's softmax, norms, quantization, anything elementwise.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_REPEATS = 10
_COPY_BYTES = 2**30
_AWQ_SEARCH_TOKENS = 65536
"""The method's default."""


@dataclass(frozen=True)
class Peaks:
    """Rates as measured: dense products of 8192 x 8192 matrices, and a copy of 1 GiB from page-locked host memory."""

    half_flops_per_second: float
    single_flops_per_second: float
    transfer_bytes_per_second: float


def measure_peaks(device: torch.device) -> Peaks:
    size = 8192
    flops = 2 * size**3
    half = torch.randn(size, size, device=device, dtype=torch.float16)
    single = half.to(torch.float32)
    host = torch.empty(2**30, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(2**30, dtype=torch.uint8, device=device)
    return Peaks(
        half_flops_per_second=flops / _seconds(lambda: half @ half),
        single_flops_per_second=flops / _seconds(lambda: single @ single),
        transfer_bytes_per_second=2**30 / _seconds(lambda: target.copy_(host, non_blocking=True)),
    )


def roofline_seconds(
    method: str,
    shape: dict[str, Any],
    layers: int | None,
    calibration: dict[str, Any],
    options: dict[str, Any],
    peaks: Peaks,
) -> dict[str, float]:
    """Seconds by part, for the whole model. AWQ's candidates all count in full, though some are given up earlier."""
    tokens = calibration["samples"] * calibration["sequence_length"]
    work = _Work(shape, tokens, calibration["sequence_length"])
    searched_tokens = min(tokens, options.get("search_tokens", _AWQ_SEARCH_TOKENS) or tokens)
    searched = _Work(shape, searched_tokens, calibration["sequence_length"])
    count = layers or shape["num_hidden_layers"]
    half = {
        "wanda": {"forward": 2 * work.forward},
        "sparsegpt": {"forward": 2 * work.forward, "hessian": work.hessian},
        "gptq": {"forward": 2 * work.forward, "hessian": work.hessian},
        "awq": {"forward": work.forward, "gram": work.gram, "search": options.get("n_grid", 20) * searched.forward},
        "smoothquant": {"forward": work.forward},
        "llm-pruner": {"forward and backward": 4 * work.forward},
        "omniquant": {"training": options.get("epochs", 20) * 3 * work.forward, "forward": 2 * work.forward},
    }[method]
    single = {"factorisation": work.factorisation, "columns": work.columns} if method in ("sparsegpt", "gptq") else {}
    transfers = 4 if method == "llm-pruner" else 2
    return {
        **{part: count * flops / peaks.half_flops_per_second for part, flops in half.items()},
        **{part: count * flops / peaks.single_flops_per_second for part, flops in single.items()},
        "transfer": count * transfers * work.weight_bytes / peaks.transfer_bytes_per_second,
    }


class _Work:
    """Floating-point operations of one block, all calibration tokens together."""

    def __init__(self, shape: dict[str, Any], tokens: int, sequence_length: int) -> None:
        hidden, middle = shape["hidden_size"], shape["intermediate_size"]
        keys = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
        attention_weights = 2 * hidden * hidden + 2 * hidden * keys
        mlp_weights = 3 * hidden * middle
        self.attention_module = 2 * tokens * attention_weights + 2 * tokens * sequence_length * hidden
        self.mlp_module = 2 * tokens * mlp_weights
        self.forward = self.attention_module + self.mlp_module
        inputs = (hidden, hidden, hidden, middle)
        self.hessian = sum(2 * tokens * size**2 for size in inputs)
        self.gram = 2 * tokens * (hidden**2 + middle**2)
        self.factorisation = sum(4 / 3 * size**3 for size in inputs)
        rows = (hidden + 2 * keys, hidden, 2 * middle, hidden)
        self.columns = sum(count * size**2 for count, size in zip(rows, inputs, strict=True))
        self.weight_bytes = 2 * (attention_weights + mlp_weights)


def _seconds(work: Callable[[], object]) -> float:
    work()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(_REPEATS):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / _REPEATS


def copy_bytes_per_second(device: torch.device) -> float:
    """Read and written, of copies within the device's memory."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(8):
        begin = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return 2 * _COPY_BYTES / min(seconds)
