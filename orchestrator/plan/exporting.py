"""How a checkpoint reaches a backend: as it is, in another layout that holds the same, or, if asked for, dequantized.

What can be exported is data (`[[exports]]` of the image that offers the operation); what a backend reads is its support
table's. An export is exact or it is a dense fallback, and a fallback carries a caveat into everything that shows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import (
    CheckpointFormat,
    Device,
    ExportDescription,
    ExportParameters,
    LayerWidths,
    LayerWidthsExport,
    Operation,
)
from orchestrator.images.catalog import ImageCatalog
from orchestrator.plan.serving import verdict
from orchestrator.plan.support import Checkpoint, Refused, Served
from orchestrator.stages import Limits, Stage, StageOutput, Subject

DENSE_FALLBACK = "dense fallback"
PADDED = "padded to the widest layer"
_ASK = "`dense_fallback: true` under `benchmark` serves it with dequantized weights"


@dataclass(frozen=True)
class Way:
    """`export` is None where the backend reads the checkpoint itself. `caveat`: see `Stage`."""

    answer: Served
    export: ExportDescription | None = None
    caveat: str | None = None

    def decision(self, backend: str) -> str | None:
        """What was chosen without being asked for, in words; None where nothing was."""
        if self.export is not None and self.caveat == DENSE_FALLBACK:
            return f"{backend}: dense fallback, as asked for: {self.export.source.value} weights are served dequantized"
        if self.export is not None:
            what = f", {self.caveat}" if self.caveat else ""
            return f"{backend} reads an exact export to {self.export.target.value}{what}"
        return f"{backend} serves with dense weights: {self.answer.message}" if self.answer.as_dense else None


def find_way(
    backend: str, catalog: ImageCatalog, device: Device, checkpoint: Checkpoint, *, dense_fallback: bool
) -> Way | Refused:
    """The way for `backend`, by its full name; the first exact export that it reads is taken.

    Raises:
        BadImage: the backend's support table is not valid.
    """
    answer = verdict(backend, catalog, device, checkpoint)
    if isinstance(answer, Served):
        return Way(answer)
    obstacles = []
    for export in _exports(catalog, checkpoint):
        served = verdict(backend, catalog, device, _converted(checkpoint, export))
        if isinstance(served, Refused) or (export.exact and served.as_dense):
            continue
        if export.exact and (why := _obstacle(export, checkpoint)):
            obstacles.append(f"no export to {export.target.value}: {why}")
        elif export.exact:
            return Way(served, export, PADDED if export.layers is LayerWidthsExport.PADDED else None)
        elif dense_fallback:
            return Way(served, export, DENSE_FALLBACK)
        else:
            obstacles.append(_ASK)
    return replace(answer, message="; ".join((answer.message, *dict.fromkeys(obstacles))))


def export_stage(
    export: ExportDescription, checkpoint: str, subject: Subject, catalog: ImageCatalog, limits: Limits
) -> Stage:
    """The stage that makes an export of the stage `checkpoint`: one for all backends that read it."""
    what = export.target.value
    if export.layers is not LayerWidthsExport.KEPT:
        what = f"{what}-{export.layers.value}"
    return Stage(
        id=f"export/{subject.label}/{what}",
        image=catalog.only(Operation.EXPORT).name,
        operation=Operation.EXPORT,
        parameters=ExportParameters(target=export.target, layers=export.layers),
        inputs={"checkpoint": StageOutput(checkpoint)},
        limits=limits,
        subject=subject,
        depends_on_device=False,
    )


def _exports(catalog: ImageCatalog, checkpoint: Checkpoint) -> Iterator[ExportDescription]:
    """Of this checkpoint, the exact ones first; not those that would quantize it, or that change nothing in it."""
    offered = [export for image in catalog.offering(Operation.EXPORT) for export in image.description.exports]
    for export in sorted(offered, key=lambda one: not one.exact):
        quantizes = export.target is not CheckpointFormat.DENSE and not export.exact
        if export.source is checkpoint.format and not quantizes and _changes(export, checkpoint):
            yield export


def _changes(export: ExportDescription, checkpoint: Checkpoint) -> bool:
    if export.source is not export.target:
        return True
    return export.layers is LayerWidthsExport.PADDED and checkpoint.layer_widths is LayerWidths.PER_LAYER


def _converted(checkpoint: Checkpoint, export: ExportDescription) -> Checkpoint:
    changes: dict[str, Any] = {"format": export.target, "activation_order": False}
    if export.symmetric_only:
        changes["symmetric"] = True
    if export.layers is not LayerWidthsExport.KEPT:
        changes["layer_widths"] = LayerWidths.UNIFORM
    return checkpoint.model_copy(update=changes)


def _obstacle(export: ExportDescription, checkpoint: Checkpoint) -> str | None:
    """Why a checkpoint is known beforehand not to be exported so; what is not known is left to the worker."""
    bits, group_size = checkpoint.weight_bits, checkpoint.group_size
    if export.bits and bits is not None and bits not in export.bits:
        return f"it holds {' or '.join(map(str, export.bits))} bits"
    if export.group_sizes and group_size is not None and group_size not in export.group_sizes:
        return f"it holds groups of {' or '.join(map(str, export.group_sizes))} inputs"
    if export.symmetric_only and checkpoint.symmetric is False:
        return "it holds symmetric weights only"
    if not export.activation_order and checkpoint.activation_order:
        return "it has no place for groups in the order of activations"
    return None
