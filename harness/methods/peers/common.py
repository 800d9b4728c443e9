"""What the adapters share: the library's presence, bit-width settings, and finishing a folder that a library saved."""

import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from harness.checkpoint import CONFIG_NAME, INDEX_NAME, open_checkpoint
from harness.contract import CompressParameters, Reason, Setting
from harness.errors import Unsupported, WorkerError

_LIBRARY_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def require(library: str) -> str:
    """The library's version.

    Raises:
        Unsupported: it is not installed here.
    """
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError as missing:
        raise Unsupported(
            Reason.METHOD,
            f"{library} is not installed in this image",
            hint=f"compress with the image {library!r}, whose lock pins it",
        ) from missing


def bits_of(parameters: CompressParameters, allowed: tuple[tuple[int, int], ...]) -> Setting:
    """The setting, if it is one of the (weight bits, activation bits) that are `allowed`.

    Raises:
        Unsupported: it is a pruning, or other bits; or groups together with quantized activations.
    """
    setting = parameters.setting
    if (setting.weight_bits, setting.activation_bits) not in allowed:
        names = ", ".join(f"W{weight}A{activation}" for weight, activation in allowed)
        raise Unsupported(
            Reason.SETTING,
            f"{parameters.method} has no setting {setting.name!r}",
            hint=f"use one of: {names}; with 16-bit activations a group size may follow, as in 'W4A16g128'",
        )
    if setting.group_size and setting.activation_bits != 16:
        raise Unsupported(
            Reason.SETTING,
            f"{parameters.method} quantizes activations only beside weights with one scale a row, not {setting.name!r}",
            hint=f"use W{setting.weight_bits}A{setting.activation_bits}",
        )
    return setting


@contextmanager
def library_faults(library: str) -> Iterator[None]:
    """Turn what a library raises into one sentence of ours.

    Raises:
        WorkerError: the library failed for a reason of its own.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # a RuntimeError, but the worker answers it as `out_of_memory`
    except _LIBRARY_FAULTS as fault:
        first = next(iter(str(fault).strip().splitlines()), "no message")
        raise WorkerError(
            f"{library} failed with {type(fault).__name__}: {first}",
            hint="its traceback is in the stage's stderr.log; compare with this project's own method of the same name",
        ) from fault


def add_companions(source: Path, staging: Path) -> None:
    """Copy the parent's files besides weights and config (the tokenizer's, mostly) over those the library wrote."""
    for name in open_checkpoint(source).files:
        if name.endswith(".safetensors") or name in (CONFIG_NAME, INDEX_NAME):
            continue
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, staging / name)


def store_float32_as(staging: Path, dtype: torch.dtype) -> None:
    """Rewrite the shards with every float32 tensor in `dtype`; codes, and scales of 16 bits, stay as they are."""
    for shard in sorted(staging.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
        wide = {name: tensor.to(dtype) for name, tensor in tensors.items() if tensor.dtype == torch.float32}
        if dtype == torch.float32 or not wide:
            continue
        partial = shard.with_suffix(".partial")
        save_file(tensors | wide, partial, metadata=metadata)
        partial.replace(shard)
