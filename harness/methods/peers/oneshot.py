"""Running llm-compressor: calibration tokens in, the model changed in place, and what the library warned of.

The library picks its device by itself: the first accelerator that torch sees, else the CPU.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.architectures.blocks import Block
from harness.contract import LogLevel, Reason
from harness.errors import BadRequest, Unsupported
from harness.methods.base import CompressionContext
from harness.methods.peers.common import add_companions, library_faults, store_float32_as
from harness.models.loading import TORCH_DTYPES
from harness.reporter import Reporter

LIBRARY = "llmcompressor"
_SHARD_SIZE = "5GB"
_WARNING_LEVELS = frozenset({"WARNING", "ERROR", "CRITICAL"})
"""Not the library's own level METRIC, which stands above WARNING."""


def run(context: CompressionContext, recipe: Sequence[Any], batch_size: int) -> tuple[str, ...]:
    """Apply the library's modifiers to the context's model in place; the notes are what it warned of.

    Raises:
        Unsupported: the library would compute on another device than the one asked for.
        BadRequest: sequences of different lengths cannot be batched.
        WorkerError: the library failed for a reason of its own.
    """
    from llmcompressor import oneshot

    _refuse_other_device(context.device)
    batches = _batches(context.sequences, batch_size)
    with _warnings(context.reporter) as notes, _pinning_optional(notes), _progress(context), library_faults(LIBRARY):
        oneshot(model=context.model, processor=context.tokenizer, dataset=batches, recipe=list(recipe))
    return tuple(dict.fromkeys(notes))


def save(context: CompressionContext, staging: Path) -> None:
    """Write the quantized model as the library does, floats in the checkpoint's dtype, beside the parent's files."""
    with library_faults(LIBRARY):
        context.model.save_pretrained(staging, save_compressed=True, max_shard_size=_SHARD_SIZE)
    store_float32_as(staging, TORCH_DTYPES[context.storage_dtype])
    add_companions(context.source, staging)


def _refuse_other_device(device: torch.device) -> None:
    accelerator = torch.accelerator.is_available()
    if (device.type == "cpu" and accelerator) or (device.type != "cpu" and (device.index or 0) != 0):
        raise Unsupported(
            Reason.DEVICE,
            f"llmcompressor computes on the first accelerator that torch sees, and {device} was asked for",
            hint="show the worker only the device to use, for example with CUDA_VISIBLE_DEVICES",
        )


def _batches(sequences: Sequence[Tensor], batch_size: int) -> "torch.utils.data.DataLoader[Any]":
    """The sequences in their order, with masks that hide nothing: what the library's own loader makes of token ids."""
    if batch_size > 1 and len({len(sequence) for sequence in sequences}) > 1:
        raise BadRequest(
            f"calibration sequences of different lengths cannot be run {batch_size} at once",
            hint="set batch_size to 1, or draw sequences of one length",
        )
    return torch.utils.data.DataLoader(list(sequences), batch_size=batch_size, collate_fn=_collate)  # type: ignore[arg-type]


def _collate(sequences: Sequence[Tensor]) -> dict[str, Tensor]:
    tokens = torch.stack(list(sequences))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


@contextmanager
def _warnings(reporter: Reporter) -> Iterator[list[str]]:
    """Log each of the library's warnings once; the list yielded collects those that say something failed."""
    from loguru import logger

    notes: list[str] = []
    seen: set[str] = set()

    def take(message: Any) -> None:
        text = " ".join(message.record["message"].split())
        if text not in seen:
            seen.add(text)
            reporter.log(f"{LIBRARY}: {text}", LogLevel.WARNING)
            if "failed" in text.lower():  # a Hessian that could not be inverted, and what was done instead
                notes.append(f"{LIBRARY} warned: {text}")

    sink = logger.add(take, format="{message}", filter=lambda record: record["level"].name in _WARNING_LEVELS)
    try:
        yield notes
    finally:
        logger.remove(sink)


@contextmanager
def _pinning_optional(notes: list[str]) -> Iterator[None]:
    """AWQ (0.14.0.1) page-locks its cached activations, which torch refuses where it has no accelerator: leave it out.

    Page-locking only speeds up copies to a GPU, so the figures are the same without it.
    """
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    pinning = IntermediatesCache.pin_memory

    def leave(*_: object) -> None:
        notes.append(f"{LIBRARY}'s page-locking of cached activations was left out: it fails where there is no GPU")

    IntermediatesCache.pin_memory = leave
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = pinning


@contextmanager
def _progress(context: CompressionContext) -> Iterator[None]:
    """Report a block as done once the next one is called for the first time."""
    total = len(context.blocks)
    reached: set[int] = set()

    def notice(block: Block) -> Any:
        def hook(_module: nn.Module, _arguments: tuple[Any, ...]) -> None:
            if block.index not in reached:
                reached.add(block.index)
                context.reporter.progress(block.index, total, "layer")

        return hook

    handles = [block.module.register_forward_pre_hook(notice(block)) for block in context.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    context.reporter.progress(total, total, "layer")
