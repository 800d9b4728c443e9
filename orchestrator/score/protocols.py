"""What to be warned of: figures measured in different ways, of other weights than they seem, or while disturbed."""

from collections.abc import Iterable

from orchestrator.evidence.rounds import APART
from orchestrator.evidence.value import Value, Values
from orchestrator.tracks import Place


def protocol_warnings(values: Iterable[Value]) -> tuple[str, ...]:
    """One sentence for each value that variants of one model have by different protocols."""
    places: dict[Place, dict[str, dict[str, None]]] = {}
    for value in values:
        variants = places.setdefault(value.place, {}).setdefault(value.whole_protocol, {})
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


def rounds_warnings(values: Values) -> tuple[str, ...]:
    """One sentence for the disturbed measurements of each part of a track, and for each variant measured by itself."""
    places: dict[tuple[str, str, str], list[Value]] = {}
    for value in values:
        if value.unit in ("seconds", "tokens/s"):
            places.setdefault((value.place.track.metric, value.place.part, value.place.model), []).append(value)
    sentences = []
    for (metric, part, model), held in places.items():
        measured = {one.source: one for value in held for one in value.measurements}
        reasons = [why for one in measured.values() if one.load and (why := one.load.disturbance)]
        if reasons:
            sentences.append(
                f"{metric}, {part} of {model}: the machine was busy with other things in {len(reasons)} of "
                f"{len(measured)} measurements; for instance, {reasons[0]}"
            )
    apart = {(value.place.part, value.place.model, value.variant.label) for value in values if APART in value.notes}
    return (*sentences, *(f"{part} of {model}: {label} was {APART}" for part, model, label in sorted(apart)))


def _who(protocols: dict[str, dict[str, None]]) -> str:
    return "; ".join(f"{', '.join(variants)} by {protocol!r}" for protocol, variants in protocols.items())
