"""Where figures that were measured in different ways, or of other weights than they seem, stand side by side."""

from collections.abc import Iterable

from orchestrator.evidence.value import Value
from orchestrator.tracks import Place


def protocol_warnings(values: Iterable[Value]) -> tuple[str, ...]:
    """One sentence for each value that variants of one model have by different protocols."""
    places: dict[Place, dict[str, dict[str, None]]] = {}
    for value in values:
        variants = places.setdefault(value.place, {}).setdefault(value.protocol, {})
        variants[value.variant.label] = None
    sentences = (
        f"{place} was measured by different protocols, which are not compared: {_who(protocols)}"
        for place, protocols in places.items()
        if len(protocols) > 1
    )
    return tuple(dict.fromkeys(sentences))


def caveat_warnings(values: Iterable[Value]) -> tuple[str, ...]:
    """One sentence for each caveat of a model's variants on one backend."""
    places: dict[tuple[str, str, str], dict[str, None]] = {}
    for value in values:
        if value.caveat:
            places.setdefault((value.place.part, value.place.model, value.caveat), {})[value.variant.label] = None
    return tuple(
        f"{part} of {model}: {', '.join(variants)} measured as {caveat}: not a figure of the method's own weights"
        for (part, model, caveat), variants in places.items()
    )


def survivor_warnings(values: Iterable[Value]) -> tuple[str, ...]:
    """One sentence for each figure over the items that are left, whatever it enters."""
    found: dict[str, None] = {}
    for value in values:
        if value.lost is None:
            continue
        if value.withheld is not None:
            what = "withheld from scores and comparisons"
        elif value.paired is not None:
            what = f"compared over the {value.paired.items} that the dense model has as well"
        else:
            what = "the figure is one over the others"
        found[f"{value.place}, {value.variant.label}: {value.lost}; {what}"] = None
    return tuple(found)


def _who(protocols: dict[str, dict[str, None]]) -> str:
    return "; ".join(f"{', '.join(variants)} by {protocol!r}" for protocol, variants in protocols.items())
