"""What a compression does to the weights that an engine has to know of: the categories of the paper's Table 5."""

from enum import StrEnum

from harness.contract import Operation, Setting
from orchestrator.evidence.value import Variant
from orchestrator.images.catalog import ImageCatalog
from orchestrator.plan.serving import stated_traits
from orchestrator.store import RunRecord


class Category(StrEnum):
    """In the order of the table. INT8 and INT4 go by the bits of the weights."""

    STRUCTURED = "structured"
    TWO_OF_FOUR = "2:4"
    UNSTRUCTURED = "unstructured"
    INT8 = "INT8"
    INT4 = "INT4"


_BITS = {8: Category.INT8, 4: Category.INT4}
_TWO_OF_FOUR = (2, 4)


def category_of(setting: Setting, *, whole_units: bool) -> Category | None:
    """`whole_units`: what is removed leaves smaller shapes, not zeros. None for what the table does not have."""
    if setting.weight_bits is not None:
        return _BITS.get(setting.weight_bits)
    if setting.zeros_of is not None:
        return Category.TWO_OF_FOUR if setting.zeros_of == _TWO_OF_FOUR else None
    return Category.STRUCTURED if whole_units else Category.UNSTRUCTURED


def run_categories(record: RunRecord, catalog: ImageCatalog) -> dict[Variant, Category]:
    """The category of each variant that has one; a method of no image that is here has none."""
    found = {}
    for state in record.stages.values():
        asked = state.parameters
        if state.operation is not Operation.COMPRESS or state.subject is None or asked["method"] not in catalog.methods:
            continue
        _, method = catalog.methods[asked["method"]]
        setting = Setting.parse(asked["setting"]["name"])
        traits = stated_traits(method, setting, asked.get("options", {}))
        category = category_of(setting, whole_units=traits.get("zeros") is False)
        if category is not None:
            found[Variant.of(state.subject)] = category
    return found
