"""One compress request from end to end: parse, load, calibrate, compress, publish."""

import shutil
from functools import partial
from pathlib import Path
from typing import cast

import torch

from harness.architectures.blocks import Block, decoder_blocks, linears_of
from harness.calibration.sampling import CalibrationSet, draw_calibration
from harness.checkpoint import open_checkpoint, open_dataset, publish
from harness.contract import (
    ARTIFACT_NAME,
    RESUME_NAME,
    Bound,
    Calibration,
    CheckpointDescriptor,
    CheckpointFormat,
    CompressionCost,
    CompressParameters,
    CompressRequest,
    CompressResult,
    DatasetDescriptor,
    FileEntry,
    Operation,
    Reason,
    digest_of,
    work_source,
)
from harness.errors import BadCheckpoint, BadRequest, Unsupported
from harness.inputs import input_folder
from harness.methods.base import CompressionContext, Compressor, Method, Outcome
from harness.methods.skeleton.finished import FinishedBlocks
from harness.models.loading import TORCH_DTYPES, LoadedModel, load_model
from harness.operations import describe_image, offered_module
from harness.physics import BYTES_PER_SECOND, hold, read_rate
from harness.reporter import Reporter
from harness.telemetry import PeakMemory, Stopwatch

_CLOCK_SECONDS = 1e-6
"""No block of work is timed more finely."""


def compress(request: CompressRequest, reporter: Reporter) -> CompressResult:
    """Compress the input `checkpoint` into `<output>/artifact`, calibrated on the input `calibration` if asked for.

    The peak memory is that of calibration and compression, with the model already in host memory.

    Raises:
        WorkerError: the work cannot be done, for the reason that the class and message give.
    """
    parameters = request.parameters
    compressor = parse_request(parameters)
    source = input_folder(request, "checkpoint")
    text = None if parameters.calibration is None else input_folder(request, "calibration")
    _refuse_compressed(open_checkpoint(source), parameters.method)
    calibration = None if text is None else open_dataset(text)

    loaded = load_model(source, request.device, in_host=True)
    blocks = decoder_blocks(loaded.model)
    compressor.check(blocks)
    _refuse_long_sequences(loaded, parameters)

    weight_bytes = sum(one.module.weight.nbytes for one in linears_of(blocks))
    fingerprint = _fingerprint(request, loaded, calibration)
    storage = TORCH_DTYPES[loaded.descriptor.dtype]
    with FinishedBlocks(Path(request.output) / RESUME_NAME, fingerprint, storage) as finished:
        with PeakMemory(loaded.device) as peak, Stopwatch(loaded.device) as watch:
            drawn = _draw(text, loaded, parameters.calibration)
            _refuse_tokens_without_row(drawn, loaded)
            for note in drawn.notes:
                reporter.log(note)
            outcome = compressor.compress(_context(request, loaded, blocks, drawn, finished, reporter))
        with Stopwatch(loaded.device) as saving:
            calibrated_on = None if calibration is None else calibration.name
            artifact = _publish(request, loaded.descriptor, compressor, calibrated_on, drawn, outcome)
    shutil.rmtree(finished.folder)
    seconds = watch.seconds - (outcome.recovery_seconds or 0) + outcome.resumed_seconds
    cost = CompressionCost(
        load_seconds=loaded.load_seconds,
        compress_seconds=seconds,
        save_seconds=saving.seconds,
        recovery_seconds=outcome.recovery_seconds,
        resumed_blocks=outcome.resumed_blocks,
        memory=peak.memory,
        bounds=(_reading(weight_bytes, seconds, loaded.device),),
    )
    return CompressResult(artifact=artifact, cost=cost, layers=outcome.layers)


def _reading(weight_bytes: int, seconds: float, device: torch.device) -> Bound:
    """Whatever a method does, it reads the weights of the blocks once.

    Raises:
        Implausible: in that time they cannot have been read.
    """
    rate = weight_bytes / max(seconds, _CLOCK_SECONDS)
    measures = [partial(read_rate, device, weight_bytes)]
    return hold("reading the blocks' weights while compressing", rate, BYTES_PER_SECOND, measures)


def _refuse_tokens_without_row(drawn: CalibrationSet, loaded: LoadedModel) -> None:
    """On a GPU, looking one up ends the process."""
    largest = max((int(sequence.max()) for sequence in drawn.sequences), default=-1)
    rows = int(loaded.model.config.vocab_size)
    if largest >= rows:
        raise BadCheckpoint(
            f"the tokenizer gives token {largest} in the calibration text, the model's embedding has {rows} rows",
            hint="use the tokenizer that belongs to the model, or resize the embedding",
        )


def parse_request(parameters: CompressParameters) -> Compressor:
    """Have the method that the image offers read its setting and options.

    Raises:
        Unsupported: the image offers no such method, or it does not have this setting.
        BadRequest: an option is unknown or out of range, or calibration is missing, or given and not looked at.
    """
    offered = describe_image().methods
    method = cast(Method, offered_module(offered, parameters.method, Reason.METHOD))
    described = next(one for one in offered if one.name == parameters.method)
    if (parameters.calibration is None) != (described.calibration is None):
        needs = "looks at weights alone" if described.calibration is None else "needs calibration text"
        given = "names none" if parameters.calibration is None else "names some"
        raise BadRequest(
            f"{parameters.method} {needs}, and the request {given}",
            hint="give `calibration` in the parameters exactly where the method's description has it",
        )
    return method.parse(parameters)


def _draw(folder: Path | None, loaded: LoadedModel, asked: Calibration | None) -> CalibrationSet:
    if folder is None or asked is None:
        return CalibrationSet(sequences=(), policy=None, notes=())
    return draw_calibration(folder, loaded.tokenizer, asked)


def _refuse_compressed(descriptor: CheckpointDescriptor, method: str) -> None:
    if descriptor.format is not CheckpointFormat.DENSE:
        raise Unsupported(
            Reason.FORMAT,
            f"{method} compresses dense checkpoints, and this one is {descriptor.format.value}",
            hint="start from the uncompressed checkpoint",
        )


def _refuse_long_sequences(loaded: LoadedModel, parameters: CompressParameters) -> None:
    context = getattr(loaded.model.config, "max_position_embeddings", None)
    length = parameters.calibration.sequence_length if parameters.calibration is not None else 0
    if context is not None and length > context:
        raise BadRequest(
            f"calibration sequences of {length} tokens exceed the model's context of {context}",
            hint=f"set sequence_length to at most {context}",
        )


def _fingerprint(request: CompressRequest, loaded: LoadedModel, calibration: DatasetDescriptor | None) -> str:
    """What two attempts must share for one to go on where the other stopped."""
    return digest_of(
        {
            "parameters": request.parameters.model_dump(mode="json"),
            "checkpoint": loaded.descriptor.digest,
            "calibration": None if calibration is None else calibration.digest,
            "device": request.device.kind.value,
            "torch": torch.__version__,
            "source": work_source(describe_image(), Operation.COMPRESS, request.parameters),
        }
    )


def _context(
    request: CompressRequest,
    loaded: LoadedModel,
    blocks: tuple[Block, ...],
    drawn: CalibrationSet,
    finished: FinishedBlocks,
    reporter: Reporter,
) -> CompressionContext:
    return CompressionContext(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        blocks=blocks,
        sequences=tuple(drawn.sequences),
        device=loaded.device,
        storage_dtype=loaded.descriptor.dtype,
        reporter=reporter,
        finished=finished,
        source=input_folder(request, "checkpoint"),
        inputs={name: Path(path) for name, path in request.inputs.items()},
        offload_activations=request.parameters.offload_activations,
    )


def _publish(
    request: CompressRequest,
    parent: CheckpointDescriptor,
    compressor: Compressor,
    calibrated_on: str | None,
    drawn: CalibrationSet,
    outcome: Outcome,
) -> CheckpointDescriptor:
    output = Path(request.output)
    staging = output / f".{ARTIFACT_NAME}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    outcome.write(staging)

    def describe(files: dict[str, FileEntry]) -> CheckpointDescriptor:
        return CheckpointDescriptor(
            files=files,
            notes=(*parent.notes, *drawn.notes, *outcome.notes),
            format=outcome.format,
            dtype=parent.dtype,
            architecture=outcome.architecture or parent.architecture,
            parameter_count=outcome.parameter_count or parent.parameter_count,
            source=parent.source,
            parent=parent.digest,
            method=request.parameters.method,
            setting=request.parameters.setting.name,
            options=compressor.options.model_dump(),
            calibrated_on=calibrated_on,
            sparsity=outcome.sparsity,
            quantization=outcome.quantization,
        )

    return publish(staging, output / ARTIFACT_NAME, describe)
