"""One export request from end to end: open, choose the conversion, write, publish."""

import importlib
import importlib.util
import shutil
from pathlib import Path
from typing import Protocol, cast

from harness.checkpoint import publish
from harness.contract import (
    ARTIFACT_NAME,
    CheckpointDescriptor,
    CheckpointFormat,
    ExportParameters,
    ExportRequest,
    ExportResult,
    FileEntry,
    LayerWidthsExport,
    Reason,
    export_module,
)
from harness.errors import BadRequest, Unsupported
from harness.exporting.conversion import Conversion
from harness.exporting.source import Source
from harness.exporting.writing import write
from harness.inputs import input_folder
from harness.models.loading import load_tokenizer
from harness.models.renamed import keep_tokenizer
from harness.reporter import Reporter


class _Target(Protocol):
    """What the module of a target offers."""

    def convert(self, source: Source, parameters: ExportParameters) -> Conversion: ...


def export(request: ExportRequest, reporter: Reporter) -> ExportResult:
    """Write the input `checkpoint` in another layout, into `<output>/artifact`.

    Raises:
        WorkerError: it cannot be written so, for the reason that the class and message give.
    """
    parameters = request.parameters
    target = _target(parameters)
    output = Path(request.output)
    staging = output / f".{ARTIFACT_NAME}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    with Source(input_folder(request, "checkpoint")) as source:
        conversion = target.convert(source, parameters)
        for note in conversion.notes:
            reporter.log(note)
        write(source, conversion, staging, reporter)
        if conversion.config["model_type"] != source.config["model_type"]:
            keep_tokenizer(load_tokenizer(source.folder), staging, conversion.descriptor.architecture)

    def describe(files: dict[str, FileEntry]) -> CheckpointDescriptor:
        notes = (*conversion.descriptor.notes, *conversion.notes)
        return conversion.descriptor.model_copy(update={"files": files, "notes": notes})

    return ExportResult(artifact=publish(staging, output / ARTIFACT_NAME, describe), linears=conversion.linears)


def _target(parameters: ExportParameters) -> _Target:
    if not _has_module(parameters.target):
        raise Unsupported(
            Reason.FORMAT,
            f"nothing is exported to {parameters.target.value}, which its method writes itself",
            hint=f"targets: {', '.join(target for target in CheckpointFormat if _has_module(target))}",
        )
    dense = parameters.target is CheckpointFormat.DENSE
    if not dense and parameters.layers is not LayerWidthsExport.KEPT:
        raise BadRequest(
            f"`layers` is for dense targets, and this one is {parameters.target.value}",
            hint="leave it out, or export to dense first",
        )
    return cast(_Target, importlib.import_module(export_module(parameters.target)))


def _has_module(target: CheckpointFormat) -> bool:
    return importlib.util.find_spec(export_module(target)) is not None
