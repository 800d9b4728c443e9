"""Loading a published checkpoint with transformers: which device, which dtype and why.

Covered: checkpoints of every format, of architectures that transformers knows without remote code, on one device.
Quantized weights are dequantized, and quantized activations simulated. Not covered: kernels that compute with packed
weights, and a model spread over several GPUs.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.architectures.blocks import decoder_blocks
from harness.architectures.pruned_shapes import model_class
from harness.architectures.usable import ATTENTION, read_architecture
from harness.checkpoint import open_checkpoint, read_config
from harness.contract import VISIBLE_GPUS, CheckpointDescriptor, CheckpointFormat, Device, DeviceKind, Dtype, Reason
from harness.environment import available_threads
from harness.errors import BadCheckpoint, Unsupported
from harness.models.packed import PackedFormat, load_dequantized
from harness.quantization.activations import attach
from harness.quantization.layouts import check_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TORCH_DTYPES = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16, Dtype.FLOAT16: torch.float16}

_PROBE = "w1 some words 2"
_WHOLE_GPU = "GPU-"
"""What the name of a GPU begins with; torch tells the UUID of a part of one (`MIG-`) in another way."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode. `device` is where to compute; the weights lie there unless loaded with `in_host`.

    `quantization_note` says what was done with a quantized checkpoint to compute with it here; None for any other.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    descriptor: CheckpointDescriptor
    dtype: Dtype
    dtype_reason: str
    device: torch.device
    load_seconds: float
    quantization_note: str | None = None


def load_model(
    folder: Path, device: Device, dtype: Dtype | None = None, *, in_host: bool = False, linears_empty: bool = False
) -> LoadedModel:
    """Load a checkpoint. `dtype` None chooses one; `in_host` leaves the weights in host memory.

    `linears_empty` leaves what quantized linears hold unfilled, and activations as they are, for a caller that replaces
    every one of them by a layer over its codes.

    Raises:
        BadCheckpoint: the folder is not a published checkpoint, is not stored as its descriptor says, or lacks weights
            that the architecture needs.
        Unsupported: the architecture or the device cannot be used.
    """
    begin = time.perf_counter()
    descriptor = open_checkpoint(folder)
    packed = packed_format(folder, descriptor, linears_empty=linears_empty)
    load_config(folder)
    where = select_device(device)
    chosen, reason = choose_dtype(descriptor.dtype, device.kind, dtype)
    model = _load_weights(folder, packed, TORCH_DTYPES[chosen])
    note = None if linears_empty else _simulate_activations(model, descriptor, chosen)
    tokenizer = load_tokenizer(folder)
    if not in_host:
        torch.nn.Module.to(model, where)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        descriptor=descriptor,
        dtype=chosen,
        dtype_reason=reason,
        device=where,
        load_seconds=time.perf_counter() - begin,
        quantization_note=note,
    )


def packed_format(
    folder: Path, descriptor: CheckpointDescriptor, *, linears_empty: bool = False
) -> PackedFormat | None:
    """How the linears of a quantized checkpoint are stored; None for a dense one.

    Raises:
        BadCheckpoint: config.json and the descriptor contradict each other.
    """
    scheme = check_config(descriptor.format, descriptor.quantization, read_config(folder))
    if scheme is None:
        return None
    rounded_to = Dtype.FLOAT32 if descriptor.format is CheckpointFormat.GGUF else descriptor.dtype
    return PackedFormat(descriptor.format, scheme, TORCH_DTYPES[rounded_to], linears_empty)


def load_config(folder: Path) -> "PretrainedConfig":
    """The configuration of a checkpoint as its architecture reads it.

    Raises:
        Unsupported: the architecture cannot be used; see `harness.architectures.usable`.
        BadCheckpoint: transformers cannot read it.
    """
    config: PretrainedConfig = read_architecture(read_config(folder))
    return config


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a checkpoint.

    Raises:
        BadCheckpoint: it cannot be loaded, or reads nothing, as when transformers rebuilds it by the model's type.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as failure:
        raise BadCheckpoint(
            f"{folder}: the tokenizer cannot be loaded: {failure}", hint="fetch the checkpoint with its tokenizer files"
        ) from failure
    if not tokenizer(_PROBE, add_special_tokens=False)["input_ids"]:
        raise BadCheckpoint(
            f"{folder}: the tokenizer, loaded as {type(tokenizer).__name__}, finds no token in text",
            hint="the tokenizer files do not belong to this architecture; fetch the checkpoint with its own",
        )
    return tokenizer


def select_device(device: Device, gpus: int = 1) -> torch.device:
    """The torch device for `device`, with its thread count set and TF32 off, so that float32 means float32.

    A GPU is `cuda:0`, the only one that this process sees: see `harness.visible_devices`. Work that is split over
    several `gpus` sees as many, and is named by the first.

    Raises:
        Unsupported: there is no CUDA here, other GPUs are visible, or others than so many are named.
    """
    torch.set_num_threads(device.threads or available_threads())
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    if device.kind is DeviceKind.CPU:
        if gpus > 1:
            raise Unsupported(
                Reason.DEVICE, f"{gpus} GPUs are to share a model, and this is a CPU", hint="leave tensor_parallel out"
            )
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Unsupported(
            Reason.DEVICE,
            "a GPU was asked for, but torch finds none",
            hint="use the image's cuda lock on a machine with an NVIDIA driver, or ask for the cpu",
        )
    _refuse_other_gpus(device, gpus)
    return torch.device("cuda", 0)


def choose_dtype(stored: Dtype, kind: DeviceKind, asked: Dtype | None) -> tuple[Dtype, str]:
    """The dtype to compute in, and the reason for it in words."""
    if asked is not None:
        return asked, f"{asked.value} was asked for"
    if kind is DeviceKind.CUDA:
        return stored, f"{stored.value} is the checkpoint's own dtype"
    if stored is Dtype.FLOAT32:
        return stored, "float32 is the checkpoint's own dtype"
    return Dtype.FLOAT32, f"float32 on the cpu, where {stored.value} is slower without special units and less exact"


def _refuse_other_gpus(device: Device, gpus: int) -> None:
    if len(device.uuids) > gpus or (gpus > 1 and len(device.uuids) < gpus):
        uses = "one" if gpus == 1 else str(gpus)
        raise Unsupported(
            Reason.DEVICE,
            f"{len(device.uuids)} GPUs were named, but this work uses {uses}",
            hint=f"name {'one GPU' if gpus == 1 else f'{gpus} GPUs'} for this stage",
        )
    names = device.uuids or (device.variables(os.environ)[VISIBLE_GPUS],)
    hint = f"start the process with {VISIBLE_GPUS}={','.join(names)}"
    if (count := torch.cuda.device_count()) != gpus:
        single = "a single one" if gpus == 1 else f"the {gpus} that were named"
        raise Unsupported(
            Reason.DEVICE, f"this process sees {count} GPUs, and computes only where it sees {single}", hint=hint
        )
    for place, name in enumerate(names):
        found = _plain_uuid(torch.cuda.get_device_properties(place).uuid)
        if name.startswith(_WHOLE_GPU) and found != _plain_uuid(name):
            raise Unsupported(Reason.DEVICE, f"this process sees GPU {found}, and not {name}", hint=hint)


def _plain_uuid(uuid: object) -> str:
    return str(uuid).lower().removeprefix("gpu-")


def _load_weights(folder: Path, packed: PackedFormat | None, dtype: torch.dtype) -> "PreTrainedModel":
    model: PreTrainedModel
    if packed is not None:
        model, report = load_dequantized(folder, packed, dtype, attn_implementation=ATTENTION)
    else:
        loaded: Any = model_class(folder).from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=ATTENTION,
            output_loading_info=True,
        )
        model, report = loaded
    _refuse_invented_weights(folder, report)
    torch.nn.Module.train(model, mode=False)
    model.requires_grad_(requires_grad=False)
    return model


def _simulate_activations(model: "PreTrainedModel", descriptor: CheckpointDescriptor, dtype: Dtype) -> str | None:
    """Quantize the activations where the checkpoint's are; returns what to note of a quantized checkpoint."""
    done = []
    if descriptor.format is not CheckpointFormat.DENSE:
        done.append(f"{descriptor.format.value} weights dequantized to {dtype.value} on load")
    quantization = descriptor.quantization
    if quantization is not None and attach(decoder_blocks(model), quantization):
        if quantization.activation_bits < 16:
            done.append(f"activations quantized to {quantization.activation_bits} bits in simulation")
        if quantization.attention_bits is not None:
            done.append(f"queries, keys and values quantized to {quantization.attention_bits} bits in simulation")
    return "; ".join(done) or None


def _refuse_invented_weights(folder: Path, info: dict[str, Any]) -> None:
    """transformers fills in what a checkpoint lacks with random values, and only warns."""
    absent = sorted(info["missing_keys"]) + sorted(str(entry[0]) for entry in info["mismatched_keys"])
    if absent:
        raise BadCheckpoint(
            f"{folder}: {len(absent)} weight(s) are missing or of another shape, the first {absent[0]}",
            hint="config.json and the weights come from different models; fetch the checkpoint again",
        )
