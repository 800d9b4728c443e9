"""A checkpoint as the native backend opens it: dense, or, on a GPU, with its quantized linears over their codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from harness.backends.in_process import unpacked_notes
from harness.backends.native.integer_serving import measure_choices, obstacle, use_codes
from harness.checkpoint import open_checkpoint
from harness.contract import CheckpointFormat, Device, DeviceKind, Dtype
from harness.models.loading import TORCH_DTYPES, LoadedModel, choose_dtype, load_model, packed_format
from harness.models.packed import PackedFormat


@dataclass(frozen=True)
class OpenedModel:
    """`codes` says how the linears are stored where they are to be computed from their codes; `why_dense` why not.

    With `codes` the model lies in host memory with its linears empty until `place` was called.
    """

    loaded: LoadedModel
    checkpoint: Path
    codes: PackedFormat | None = None
    why_dense: str | None = None

    @property
    def dequantized(self) -> bool:
        return self.codes is None and self.loaded.descriptor.format is not CheckpointFormat.DENSE

    def place(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Bring the model to its device, its linears' launches measured for these numbers of tokens.

        Returns notes on what of the checkpoint's compression was made use of.
        """
        if self.codes is None:
            return unpacked_notes(self.loaded, self.why_dense)
        model, dtype = self.loaded.model, TORCH_DTYPES[self.loaded.dtype]
        note = use_codes(model, self.checkpoint, self.codes, dtype)
        torch.nn.Module.to(model, self.loaded.device)
        return (note, *measure_choices(model, dtype, tokens))


def open_model(checkpoint: Path, device: Device, dtype: Dtype | None, *, codes: bool = True) -> OpenedModel:
    """Load a checkpoint. Raises what `harness.models.loading.load_model` raises."""
    why = dequantized_because(checkpoint, device, dtype, codes=codes)
    descriptor = open_checkpoint(checkpoint)
    packed = packed_format(checkpoint, descriptor)
    if packed is None or why is not None:
        return OpenedModel(load_model(checkpoint, device, dtype), checkpoint, why_dense=why)
    loaded = load_model(checkpoint, device, dtype, in_host=True, linears_empty=True)
    return OpenedModel(loaded, checkpoint, codes=packed)


def dequantized_because(checkpoint: Path, device: Device, dtype: Dtype | None, *, codes: bool = True) -> str | None:
    """Why a quantized checkpoint is served dequantized; None where it is served from its `codes`, or is dense."""
    descriptor = open_checkpoint(checkpoint)
    packed = packed_format(checkpoint, descriptor)
    if packed is None:
        return None
    if not codes:
        return "codes=off was asked for"
    if device.kind is not DeviceKind.CUDA:
        return "this backend's kernels for codes are a GPU's"
    if find_spec("triton") is None:
        return "Triton, in which the kernels are written, is not installed"
    chosen, _ = choose_dtype(descriptor.dtype, device.kind, dtype)
    return obstacle(checkpoint, descriptor, packed, TORCH_DTYPES[chosen])
