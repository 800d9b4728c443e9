"""Which baseline a method is held against: one that takes the same setting, on the same grid where it has a choice."""

from collections.abc import Mapping

from harness.contract import MethodDescription, Scalar, Setting
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest import CompressEntry
from orchestrator.plan.resolving import accepts
from orchestrator.plan.serving import stated_traits


def is_baseline_of(
    baseline: MethodDescription, method: MethodDescription, setting: Setting, options: Mapping[str, Scalar]
) -> bool:
    """Whether `baseline` at the same setting does to the weights what `method` does, without its cost.

    A method that takes whole units away leaves another model than one that sets weights to zero at the same ratio.
    """
    keeps_shapes = stated_traits(method, setting, options).get("zeros") is not False
    return baseline.baseline and not method.baseline and keeps_shapes and accepts(baseline, setting)


def baseline_entry(
    method: MethodDescription, setting: Setting, options: Mapping[str, Scalar], catalog: ImageCatalog
) -> CompressEntry | None:
    """The baseline of a method as a manifest would ask for it; None where no image offers one.

    Only its accuracy is measured: it has the size and the speed of what it is held against.
    """
    for _, baseline in catalog.methods.values():
        if is_baseline_of(baseline, method, setting, options):
            wanted = stated_traits(method, setting, options).get("symmetric")
            return CompressEntry(
                method=baseline.name,
                setting=setting.name,
                options=_symmetry(baseline, setting, wanted),
                accuracy_only=True,
            )
    return None


def _symmetry(baseline: MethodDescription, setting: Setting, wanted: bool | None) -> dict[str, Scalar]:
    """The options by which the baseline's grids are symmetric, or not, as is wanted."""
    if wanted is None or stated_traits(baseline, setting, {}).get("symmetric") == wanted:
        return {}
    return next(
        (traits.options for traits in baseline.traits if traits.options and traits.symmetric == wanted),
        {},
    )
