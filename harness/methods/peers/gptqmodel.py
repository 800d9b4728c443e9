"""GPTQModel's GPTQ and AWQ, on the same calibration tokens as this project's own.

The adapter writes the configuration and hands over the checkpoint's folder and the tokens; the library itself loads,
quantizes, packs and saves. Covered: weights of 4 and 8 bits in the `gptq` and `awq` layouts. Not covered: its other
methods and layouts, going on after an interruption, several GPUs. A fault in one of the library's own threads ends the
whole process at once, so that it cannot be explained: the stage fails as one that died, with its stderr.log.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import Field, PositiveInt

from harness.architectures.blocks import Block, linears_of
from harness.contract import CheckpointFormat, CompressParameters, Dtype, Frozen, Quantization, Reason, Setting
from harness.errors import Unsupported
from harness.methods.base import CompressionContext, Outcome, refuse_indivisible
from harness.methods.peers.common import add_companions, bits_of, library_faults, require, store_float32_as
from harness.models.loading import TORCH_DTYPES
from harness.options import parse_options

_LIBRARY = "gptqmodel"
_BITS = ((4, 16), (8, 16))
_GROUP_SIZES = (16, 32, 64, 128)
_FEWEST_WORKERS = 2
_AWQ_ROWS = 64
"""The library's search for narrower ranges takes so many rows at a time; it leaves out queries and keys."""
_TAKEN_APART = frozenset({"GlmForCausalLM", "Glm4ForCausalLM"})
_SHARD_SIZE = "5GB"
_LOG_NAME = "quant_log.csv"


class Options(Frozen):
    """`batch_size` counts sequences run at once."""

    batch_size: PositiveInt = 1
    symmetric: bool = True


class GptqOptions(Options):
    """`order`: `auto`, the library's default, takes whole groups by their activations; `activation`, single columns.

    `damp_percent` is the share of the Hessian's mean diagonal that is added to it.
    """

    damp_percent: float = Field(default=0.05, gt=0, lt=1)
    order: Literal["auto", "activation", "none"] = "auto"


OPTIONS = {"gptqmodel-gptq": GptqOptions, "gptqmodel-awq": Options}


def parse(parameters: CompressParameters) -> "GptqModel":
    """Read the setting and the options of a request whose method is one of `METHODS`.

    Raises:
        Unsupported: there is no such method, or it does not have this setting.
        BadRequest: an option is unknown or out of range.
    """
    if parameters.method not in METHODS:
        raise Unsupported(
            Reason.METHOD,
            f"gptqmodel offers no method {parameters.method!r} here",
            hint=f"methods: {', '.join(METHODS)}",
        )
    setting = bits_of(parameters, _BITS)
    if setting.group_size and setting.group_size not in _GROUP_SIZES:
        raise Unsupported(
            Reason.SETTING,
            f"gptqmodel packs no groups of {setting.group_size}",
            hint=f"use a group size of {', '.join(map(str, _GROUP_SIZES))}, or none for whole rows",
        )
    return METHODS[parameters.method](parameters, setting)


@dataclass(frozen=True)
class GptqModel:
    """A parsed request; see `harness.methods.base.Compressor`. `configuration` makes the library's, but for the device.

    `backend` is the library's name of the packing that needs neither a GPU nor a compiler.
    """

    setting: Setting
    options: Options
    configuration: Callable[[], Any]
    backend: str
    format: CheckpointFormat

    def check(self, blocks: Sequence[Block]) -> None:
        if self.setting.group_size:
            refuse_indivisible(blocks, self.setting.group_size, self.setting.name)
        if self.format is CheckpointFormat.AWQ:
            _refuse_odd_rows(blocks)
        require(_LIBRARY)
        with _scratch():
            self.configuration()  # imports the library now: its seconds are not the compression's

    def compress(self, context: CompressionContext) -> Outcome:
        version = require(_LIBRARY)
        architecture = type(context.model).__name__
        if architecture in _TAKEN_APART:
            raise Unsupported(
                Reason.ARCHITECTURE,
                f"gptqmodel stores the fused gate_up_proj of {architecture} as two linears, which only it reads back",
                hint="use llmcompressor-gptq, or this project's own method",
            )
        if self.format is CheckpointFormat.AWQ and context.storage_dtype is Dtype.FLOAT32:
            raise Unsupported(
                Reason.DTYPE,
                "gptqmodel packs AWQ in bfloat16 or float16 only, and the checkpoint is float32",
                hint="fetch the checkpoint in bfloat16",
            )
        context.model.to("meta")  # type: ignore[arg-type]  # the library loads its own copy
        with _scratch(), library_faults(_LIBRARY):
            model, log = self._quantize(context)
        weight_bits, activation_bits = self.setting.weight_bits, self.setting.activation_bits
        assert weight_bits and activation_bits  # noqa: S101  parsing saw to it
        return Outcome(
            write=lambda staging: _save(context, model, staging),
            layers=(),
            notes=(
                f"gptqmodel {version}, in {context.storage_dtype.value}; it loads the model itself, within the "
                "compression's seconds",
                *_fallbacks(log),
                *(["gptqmodel chooses by itself where activations are kept"] if context.offload_activations else []),
            ),
            format=self.format,
            quantization=Quantization(
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                group_size=self.setting.group_size,
                symmetric=self.options.symmetric,
            ),
        )

    def _quantize(self, context: CompressionContext) -> tuple[Any, dict[str, list[dict[str, str]]]]:
        from gptqmodel import GPTQModel
        from gptqmodel.utils.backend import BACKEND

        configuration = self.configuration()
        configuration.device = str(context.device)
        dtype = TORCH_DTYPES[context.storage_dtype]
        model = GPTQModel.load(str(context.source), configuration, dtype=dtype, trust_remote_code=False)
        calibration = [
            {"input_ids": sequence.tolist(), "attention_mask": [1] * len(sequence)} for sequence in context.sequences
        ]
        log = model.quantize(
            calibration,
            calibration_sort=None,
            calibration_data_min_length=1,
            batch_size=self.options.batch_size,
            backend=BACKEND(self.backend),
        )
        total = len(context.blocks)
        context.reporter.progress(total, total, "layer")
        return model, log


def _gptq(parameters: CompressParameters, setting: Setting) -> GptqModel:
    options = parse_options(GptqOptions, parameters.options, parameters.method)

    def configuration() -> Any:
        from gptqmodel.quantization.config import GPTQConfig

        return GPTQConfig(
            **_common(setting, options),
            damp_percent=options.damp_percent,
            desc_act=options.order == "activation",
            act_group_aware=options.order == "auto" and setting.group_size > 0,
        )

    return GptqModel(setting, options, configuration, "gptq_torch", CheckpointFormat.GPTQ)


def _awq(parameters: CompressParameters, setting: Setting) -> GptqModel:
    options = parse_options(Options, parameters.options, parameters.method)

    def configuration() -> Any:
        from gptqmodel.quantization.config import AWQConfig

        return AWQConfig(**_common(setting, options))

    return GptqModel(setting, options, configuration, "awq_torch", CheckpointFormat.AWQ)


def _common(setting: Setting, options: Options) -> dict[str, Any]:
    """`pack_impl`: the library's other packings compile an extension, and the images hold no compiler."""
    return {
        "bits": setting.weight_bits,
        "group_size": setting.group_size or -1,
        "sym": options.symmetric,
        "lm_head": False,
        "offload_to_disk": False,
        "pack_impl": "original",
    }


def _refuse_odd_rows(blocks: Sequence[Block]) -> None:
    searched = [one for one in linears_of(blocks) if not one.name.endswith(("q_proj", "k_proj"))]
    odd = [f"{one.name} ({one.module.out_features})" for one in searched if one.module.out_features % _AWQ_ROWS]
    if odd:
        raise Unsupported(
            Reason.SHAPE,
            f"gptqmodel's AWQ needs output sizes that are multiples of {_AWQ_ROWS}; {len(odd)} linear(s) have others: "
            f"{', '.join(odd[:4])}",
            hint="use llmcompressor-awq, or this project's own awq",
        )


@contextmanager
def _scratch() -> Iterator[None]:
    """Work in a folder that the library may fill with its logs; and with threads enough for the pools it insists on.

    On fewer than three cores the library (7.6.0) counts one worker and then asks for two.
    """
    if (os.cpu_count() or 1) <= _FEWEST_WORKERS:
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(_FEWEST_WORKERS))
    with TemporaryDirectory() as folder, chdir(folder):
        yield


def _save(context: CompressionContext, model: Any, staging: Path) -> None:
    with _scratch(), library_faults(_LIBRARY):
        model.save(str(staging), max_shard_size=_SHARD_SIZE)
    (staging / _LOG_NAME).unlink(missing_ok=True)  # it holds seconds, and the same weights shall have the same digest
    store_float32_as(staging, TORCH_DTYPES[context.storage_dtype])
    add_companions(context.source, staging)


def _fallbacks(log: dict[str, list[dict[str, str]]]) -> Iterator[str]:
    """The linears that the library rounded instead, as its log says in place of their loss."""
    named = [
        f"{entry['layer']}.{entry['module']}"
        for entries in log.values()
        for entry in entries
        if str(entry.get("loss", "")).startswith("fallback")
    ]
    if named:
        yield f"gptqmodel rounded {len(named)} linear(s) to the nearest instead, the first {named[0]}"


METHODS: dict[str, Callable[[CompressParameters, Setting], GptqModel]] = {
    "gptqmodel-gptq": _gptq,
    "gptqmodel-awq": _awq,
}
