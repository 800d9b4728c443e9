"""What is known of a checkpoint before it is made, and whether a backend will serve it."""

from collections.abc import Mapping
from typing import Any

from harness.contract import (
    Device,
    Dtype,
    LayerWidths,
    MethodDescription,
    Scalar,
    Setting,
)
from orchestrator.images.catalog import ImageCatalog
from orchestrator.plan.resolving import bits_name, planned_format
from orchestrator.plan.support import Checkpoint, Refused, Served, judge, support_of

_NOT_QUANTIZED = 16


def compressed_checkpoint(
    dense: Checkpoint, method: MethodDescription, setting: Setting, options: Mapping[str, Scalar]
) -> Checkpoint:
    """What a method will make of `dense`, by its description's `produces` and `traits`."""
    traits = stated_traits(method, setting, options)
    quantized = setting.weight_bits is not None
    changes: dict[str, Any] = {
        "format": planned_format(method, setting, options),
        "weight_bits": setting.weight_bits or _NOT_QUANTIZED,
        "activation_bits": setting.activation_bits or _NOT_QUANTIZED,
        "group_size": setting.group_size,
        "symmetric": traits.get("symmetric", None if quantized else True),
        "activation_order": traits.get("activation_order", None if quantized else False),
        "zeros": traits.get("zeros", not quantized),
        "layer_widths": traits.get("layer_widths", LayerWidths.UNIFORM),
    }
    if setting.group_size == 0:
        changes["activation_order"] = False
    return dense.model_copy(update=changes)


def computed_in(checkpoint: Checkpoint, dtype: Dtype | None) -> Checkpoint:
    """The checkpoint as a backend is asked to compute with it; None leaves the dtype to the backend."""
    return checkpoint if dtype is None else checkpoint.model_copy(update={"dtype": dtype})


def verdict(backend: str, catalog: ImageCatalog, device: Device, checkpoint: Checkpoint) -> Served | Refused:
    """Whether `backend`, by its full name, will serve a checkpoint on the kind of `device`.

    For a converted checkpoint, ask with `checkpoint.model_copy(update={"format": …})`.

    Raises:
        BadImage: the backend's support table is not valid.
    """
    image, description = catalog.backends[backend]
    table = support_of(image, description)
    return judge(table, checkpoint.model_copy(update={"device": device.kind}))


def stated_traits(method: MethodDescription, setting: Setting, options: Mapping[str, Scalar]) -> dict[str, Any]:
    """What the method's description states of its checkpoint, by the names of `CheckpointTraits`."""
    stated: dict[str, Any] = {}
    for traits in method.traits:
        holds = (
            all(options.get(name) == value for name, value in traits.options.items())
            and (not traits.settings or bits_name(setting) in traits.settings)
            and (not traits.official_flag or setting.official_flag is not None)
        )
        if holds:
            stated |= traits.model_dump(exclude={"options", "settings", "official_flag"}, exclude_none=True)
    return stated
