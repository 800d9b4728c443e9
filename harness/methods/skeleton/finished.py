"""Finished blocks on disk: what a stage that is killed need not compute again, and what the checkpoint is written from.

One safetensors file a block, which appears by rename. Files are written behind the computation, by one thread. An
attempt goes on from another only if both were asked for the same: the folder carries the fingerprint of the request.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.architectures.blocks import Block
from harness.contract import Frozen, LayerReport
from harness.quantization.weight import QuantizedWeight

_FINGERPRINT = "fingerprint"
_CODES, _SCALE, _ZERO, _GROUP_OF = "codes:", "scale:", "zero:", "group_of:"
_PARAMETER = "parameter:"


@dataclass(frozen=True)
class BlockResult:
    """What became of one block. `quantized` is by the linears' full names; all else is in the block's parameters."""

    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()
    quantized: Mapping[str, QuantizedWeight] = field(default_factory=dict)


class _Grid(Frozen):
    bits: int
    symmetric: bool


class _Facts(Frozen):
    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...]
    grids: dict[str, _Grid]
    zeros: NonNegativeInt
    weights: NonNegativeInt
    seconds: NonNegativeFloat


class FinishedBlocks:
    """The finished blocks of one request. `storage_dtype` is what a block's parameters are kept in."""

    def __init__(self, folder: Path, fingerprint: str, storage_dtype: torch.dtype) -> None:
        self._folder = folder
        self._storage_dtype = storage_dtype
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="block-writer")
        self._pending: Future[None] | None = None
        self._open(fingerprint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(wait=True)

    @property
    def folder(self) -> Path:
        """Where a method may keep further state of its own that is to survive an interruption."""
        return self._folder

    def has(self, block: Block) -> bool:
        return self._path(block).is_file()

    def load(self, block: Block) -> BlockResult:
        """The result of a block that an earlier attempt finished, with its parameters put into the block's module."""
        with _reading(self._path(block)) as file:
            facts = _Facts.model_validate_json(file.metadata()["facts"])
            quantized = {name: _read_quantized(file, name, grid) for name, grid in facts.grids.items()}
            names = dict(block.module.named_parameters())
            with torch.no_grad():
                for name, parameter in names.items():
                    full = f"{block.name}.{name}"
                    if (linear := full.removesuffix(".weight")) in quantized:
                        parameter.copy_(quantized[linear].dequantize(self._storage_dtype))
                    else:
                        parameter.copy_(file.get_tensor(_PARAMETER + full))
        return BlockResult(layers=facts.layers, notes=facts.notes, quantized=quantized)

    def save(self, block: Block, result: BlockResult, seconds: float) -> None:
        """Keep a block, which took `seconds`. Its tensors are copied now and written behind.

        A failed write is raised by the next call.

        Raises:
            RuntimeError: a parameter is not a value of the storage dtype, so that what is stored would differ.
        """
        tensors: dict[str, Tensor] = {}
        for name, parameter in block.module.named_parameters():
            full = f"{block.name}.{name}"
            if full.removesuffix(".weight") not in result.quantized:
                tensors[_PARAMETER + full] = self._stored(full, parameter)
        for name, weight in result.quantized.items():
            parts = {_CODES: weight.codes, _SCALE: weight.scale, _ZERO: weight.zero, _GROUP_OF: weight.group_of}
            tensors |= {kind + name: _on_host(part) for kind, part in parts.items() if part is not None}
        linears = [linear.module.weight for linear in block.linears]
        facts = _Facts(
            layers=result.layers,
            notes=result.notes,
            grids={
                name: _Grid(bits=one.bits, symmetric=one.symmetric) for name, one in sorted(result.quantized.items())
            },
            zeros=sum(int((weight == 0).sum()) for weight in linears),
            weights=sum(weight.numel() for weight in linears),
            seconds=seconds,
        )
        self.wait()
        self._pending = self._writer.submit(_write, self._path(block), tensors, facts.model_dump_json())

    def wait(self) -> None:
        """Return once every block so far is on disk."""
        if self._pending is not None:
            self._pending.result()

    def facts(self, block: Block) -> _Facts:
        """What was noted beside the tensors of a finished block."""
        self.wait()
        with _reading(self._path(block)) as file:
            return _Facts.model_validate_json(file.metadata()["facts"])

    def tensor(self, block: Block, parameter: str) -> Tensor:
        """A parameter of a finished block by its full name, in the storage dtype, on the host."""
        self.wait()
        with _reading(self._path(block)) as file:
            value: Tensor = file.get_tensor(_PARAMETER + parameter)
            return value

    def quantized(self, block: Block, linear: str) -> QuantizedWeight:
        """The quantized weight of a linear of a finished block, on the host."""
        self.wait()
        with _reading(self._path(block)) as file:
            grid = _Facts.model_validate_json(file.metadata()["facts"]).grids[linear]
            return _read_quantized(file, linear, grid)

    def _open(self, fingerprint: str) -> None:
        mark = self._folder / _FINGERPRINT
        if self._folder.exists() and (not mark.is_file() or mark.read_text(encoding="ascii") != fingerprint):
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        if not mark.is_file():
            mark.with_suffix(".partial").write_text(fingerprint, encoding="ascii")
            mark.with_suffix(".partial").replace(mark)

    def _path(self, block: Block) -> Path:
        return self._folder / f"block-{block.index:04d}.safetensors"

    def _stored(self, name: str, parameter: Tensor) -> Tensor:
        stored = parameter.detach().to(self._storage_dtype)
        if stored.dtype != parameter.dtype and not torch.equal(stored.to(parameter.dtype), parameter):
            raise RuntimeError(f"{name} was not rounded to {self._storage_dtype} before the next block was fed")
        return _on_host(stored)


def _on_host(tensor: Tensor) -> Tensor:
    """A copy that nobody else changes while it is being written; page-locked when it comes from a GPU."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return copy.copy_(tensor.detach())


def _write(path: Path, tensors: dict[str, Tensor], facts: str) -> None:
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"facts": facts})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as damaged:
        raise RuntimeError(f"the finished block {path.name} is damaged: {damaged}") from damaged


def _read_quantized(file: Any, name: str, grid: _Grid) -> QuantizedWeight:
    names = set(file.keys())
    return QuantizedWeight(
        codes=file.get_tensor(_CODES + name),
        scale=file.get_tensor(_SCALE + name),
        zero=file.get_tensor(_ZERO + name),
        bits=grid.bits,
        symmetric=grid.symmetric,
        group_of=file.get_tensor(_GROUP_OF + name) if _GROUP_OF + name in names else None,
    )
