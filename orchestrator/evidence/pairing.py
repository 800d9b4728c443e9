"""Sets each value against the dense one over the items that both have an outcome of.

A model may give no finite likelihood to some items, which are then excluded. Two figures over the survivors of each are
not of the same items, and a mean over easier ones looks like a better model.
"""

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.evidence.items import NoInterval, items_of
from orchestrator.evidence.resampling import Pair, pair
from orchestrator.evidence.value import Paired, Value
from orchestrator.figures.outcomes import Outcomes


def paired_with_dense(values: Sequence[Value], outcomes: Mapping[str, Outcomes]) -> Iterator[Value]:
    """The values in their order; those over other items than the dense value's have `paired`, or why not.

    `outcomes` are by the sources of values.
    """
    dense = {value.place: value for value in values if value.variant.is_dense}
    for value in values:
        reference = dense.get(value.place)
        if reference is None or value.variant.is_dense or reference.whole_protocol != value.whole_protocol:
            yield value
            continue
        try:
            found = pair_of(value, reference, outcomes)
        except NoInterval as reason:
            yield value.model_copy(update={"unpaired": f"{reason} as the dense value"})
            continue
        if found is None:
            yield value
        else:
            over_common = Paired(value=found.value, reference=found.reference, items=found.items)
            yield value.model_copy(update={"paired": over_common})


def pair_of(one: Value, other: Value, outcomes: Mapping[str, Outcomes]) -> Pair | None:
    """Both values over the items that both have an outcome of; None where these are all of both, or where there are no
    items.

    Raises:
        NoInterval: they are not of the same items, or have none in common.
    """
    left, right = outcomes.get(one.source), outcomes.get(other.source)
    if left is None or right is None:
        return None
    return pair(one.value, items_of(left, one.metric), other.value, items_of(right, other.metric))
