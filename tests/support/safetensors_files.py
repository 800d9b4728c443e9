"""Safetensors files of a few values, written by hand: any dtype, any bytes."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Stored = tuple[str, tuple[int, ...], bytes]
"""A tensor's dtype in the header's words, its shape, and its bytes."""


def bf16(values: Any) -> Stored:
    """An array as BF16, each value cut off after its first sixteen bits."""
    array = np.asarray(values, dtype=np.float32)
    return "BF16", array.shape, (array.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def plain(dtype: str, values: np.ndarray) -> Stored:
    return dtype, values.shape, values.tobytes()


def write_safetensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + len(content)]}
        begin += len(content)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(content for _, _, content in tensors.values()))
