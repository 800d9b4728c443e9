"""Where figures that were measured in different ways, or of other weights than they seem, stand side by side."""

from collections.abc import Iterable

from orchestrator.evidence.observation import Observation
from orchestrator.tracks import Track, place_label


def protocol_warnings(observations: Iterable[Observation]) -> tuple[str, ...]:
    """One sentence for each value that variants of one model have by different protocols."""
    places: dict[tuple[Track, str, str], dict[str, dict[str, None]]] = {}
    for entry in observations:
        label = place_label(entry.track, entry.part, entry.name)
        variants = places.setdefault((entry.track, label, entry.model), {}).setdefault(entry.protocol, {})
        variants[entry.variant.label] = None
    sentences = (
        f"{name} of {model} was measured by different protocols, which are not compared: {_who(protocols)}"
        for (_, name, model), protocols in places.items()
        if len(protocols) > 1
    )
    return tuple(dict.fromkeys(sentences))


def caveat_warnings(observations: Iterable[Observation]) -> tuple[str, ...]:
    """One sentence for each caveat of a model's variants on one backend."""
    places: dict[tuple[str, str, str], dict[str, None]] = {}
    for entry in observations:
        if entry.caveat:
            places.setdefault((entry.part, entry.model, entry.caveat), {})[entry.variant.label] = None
    return tuple(
        f"{part} of {model}: {', '.join(variants)} measured as {caveat}: not a figure of the method's own weights"
        for (part, model, caveat), variants in places.items()
    )


def _who(protocols: dict[str, dict[str, None]]) -> str:
    return "; ".join(f"{', '.join(variants)} by {protocol!r}" for protocol, variants in protocols.items())
