"""One compress request from end to end: parse, load, calibrate, compress, publish."""

import importlib
import shutil
from pathlib import Path
from typing import cast

from harness.calibration import CalibrationSet, draw_calibration
from harness.checkpoint import open_checkpoint, open_dataset, publish
from harness.contract import (
    ARTIFACT_NAME,
    CheckpointDescriptor,
    CheckpointFormat,
    CompressionCost,
    CompressParameters,
    CompressRequest,
    CompressResult,
    FileEntry,
    Reason,
    Setting,
    Sparsity,
)
from harness.errors import BadRequest, Unsupported
from harness.inputs import input_folder
from harness.methods.base import CompressionContext, Compressor, Method, Outcome, suggest
from harness.methods.saving import write_checkpoint
from harness.models.blocks import Block, decoder_blocks, linears_of
from harness.models.loading import LoadedModel, load_model
from harness.reporter import Reporter
from harness.telemetry import PeakMemory, Stopwatch

_METHODS = {"sparsegpt": "harness.methods.sparsegpt"}


def compress(request: CompressRequest, reporter: Reporter) -> CompressResult:
    """Compress the input `checkpoint`, calibrated on the input `calibration`, into `<output>/artifact`.

    The peak memory is that of calibration and compression, with the model already in host memory.

    Raises:
        WorkerError: the work cannot be done, for the reason that the class and message give.
    """
    parameters = request.parameters
    compressor = parse_request(parameters)
    source = input_folder(request, "checkpoint")
    calibration_folder = input_folder(request, "calibration")
    _refuse_compressed(open_checkpoint(source), parameters.method)
    open_dataset(calibration_folder)

    loaded = load_model(source, request.device, in_host=True)
    blocks = decoder_blocks(loaded.model)
    compressor.check(blocks)
    _refuse_long_sequences(loaded, parameters)

    with PeakMemory(loaded.device) as peak, Stopwatch(loaded.device) as watch:
        drawn = draw_calibration(calibration_folder, loaded.tokenizer, parameters.calibration)
        for note in drawn.notes:
            reporter.log(note)
        outcome = compressor.compress(
            CompressionContext(
                model=loaded.model,
                blocks=blocks,
                tokens=drawn.tokens,
                device=loaded.device,
                storage_dtype=loaded.descriptor.dtype,
                reporter=reporter,
            )
        )
    with Stopwatch(loaded.device) as saving:
        artifact = _publish(request, source, loaded, blocks, compressor, drawn, outcome)
    cost = CompressionCost(
        load_seconds=loaded.load_seconds,
        compress_seconds=watch.seconds,
        save_seconds=saving.seconds,
        memory=peak.memory,
    )
    return CompressResult(artifact=artifact, cost=cost, layers=outcome.layers)


def parse_request(parameters: CompressParameters) -> Compressor:
    """Find the method and have it read its setting and options.

    Raises:
        Unsupported: there is no such method, or it does not have this setting.
        BadRequest: an option is unknown or out of range.
    """
    if parameters.method not in _METHODS:
        raise Unsupported(
            Reason.METHOD,
            f"there is no method {parameters.method!r}{suggest(parameters.method, _METHODS)}",
            hint=f"methods: {', '.join(_METHODS)}",
        )
    method = cast(Method, importlib.import_module(_METHODS[parameters.method]))
    return method.parse(parameters)


def _refuse_compressed(descriptor: CheckpointDescriptor, method: str) -> None:
    if descriptor.format is not CheckpointFormat.DENSE:
        raise Unsupported(
            Reason.FORMAT,
            f"{method} compresses dense checkpoints, and this one is {descriptor.format.value}",
            hint="start from the uncompressed checkpoint",
        )


def _refuse_long_sequences(loaded: LoadedModel, parameters: CompressParameters) -> None:
    context = getattr(loaded.model.config, "max_position_embeddings", None)
    length = parameters.calibration.sequence_length
    if context is not None and length > context:
        raise BadRequest(
            f"calibration sequences of {length} tokens exceed the model's context of {context}",
            hint=f"set sequence_length to at most {context}",
        )


def _publish(
    request: CompressRequest,
    source: Path,
    loaded: LoadedModel,
    blocks: tuple[Block, ...],
    compressor: Compressor,
    drawn: CalibrationSet,
    outcome: Outcome,
) -> CheckpointDescriptor:
    output = Path(request.output)
    staging = output / f".{ARTIFACT_NAME}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    replaced = {f"{linear.name}.weight": linear.module.weight for linear in linears_of(blocks)}
    write_checkpoint(source, staging, loaded.descriptor, replaced, loaded.model.base_model_prefix)
    parent = loaded.descriptor

    def describe(files: dict[str, FileEntry]) -> CheckpointDescriptor:
        return CheckpointDescriptor(
            files=files,
            notes=(*parent.notes, *drawn.notes, *outcome.notes),
            format=CheckpointFormat.DENSE,
            dtype=parent.dtype,
            architecture=parent.architecture,
            parameter_count=parent.parameter_count,
            source=parent.source,
            parent=parent.digest,
            method=request.parameters.method,
            setting=request.parameters.setting.name,
            options=compressor.options.model_dump(),
            sparsity=_measure_sparsity(request.parameters.setting, blocks),
        )

    return publish(staging, output / ARTIFACT_NAME, describe)


def _measure_sparsity(setting: Setting, blocks: tuple[Block, ...]) -> Sparsity | None:
    if setting.sparsity is None:
        return None
    weights = [linear.module.weight for linear in linears_of(blocks)]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    measured = zeros / sum(weight.numel() for weight in weights)
    return Sparsity(pattern=_pattern(setting), target=setting.sparsity, measured=measured)


def _pattern(setting: Setting) -> str:
    return "unstructured" if setting.zeros_of is None else f"{setting.zeros_of[0]}:{setting.zeros_of[1]}"
