"""Whether a data set has the splits that are needed, from the sources that it can be had from here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.contract import DatasetDescription, DatasetSource, Operation, Reason
from orchestrator.errors import BadManifest
from orchestrator.images.catalog import ImageCatalog
from orchestrator.manifest.hub import HubUnavailable, NotOnHub
from orchestrator.plan.support import Refused

DatasetLookUp = Callable[[str, str], object]
"""Asks the hub for a data set's repository at a commit.

It raises HubUnavailable where the hub gives no answer, NotOnHub where it does not show us this one.
"""


@dataclass
class DataSources:
    """Where data sets can come from: those of the fetch image, by name, and a hub that may be out of reach.

    Local files come first, as in the fetch: where there are any, nothing else is asked. The hub is asked through
    `look_up`, each repository once and only where nothing else has what is needed; one that does not answer is not
    asked again. Without `look_up` it is taken to answer.
    """

    known: Mapping[str, DatasetDescription]
    look_up: DatasetLookUp | None = None
    _silent: str | None = None
    _answers: dict[str, str | None] = field(default_factory=dict)

    def has(self, source: DatasetSource) -> bool:
        """Whether one source that can be reached from here has all the splits that `source` needs."""
        return not self._missing(self.known[source.name], source, source.splits)

    def lack(self, source: DatasetSource, what: str) -> Refused | None:
        """Why no source that can be reached from here has all the splits it needs, where `what` says for what.

        Raises:
            BadManifest: neither the local files, the hub nor the package has them, but other splits.
        """
        description, needed = self.known[source.name], source.splits
        missing = self._missing(description, source, needed)
        if not missing:
            return None
        place = description.splits.get(missing[0])
        remedy = f"put {place.local} into the folder that LLMCBENCH_DATA names" if place else "choose another data set"
        want = f"{what} needs the split {missing[0]} of {source.name}"
        hub, package = _on_hub(description), _in_package(description)
        if (hub or package) and not any(set(needed) <= set(one) for one in (hub, package)):
            there = [split for split in description.splits if split in (*hub, *package)]
            raise BadManifest(f"{want}, and hub and package have {', '.join(there)} alone", hint=remedy)
        why = self._why_not_on_hub(description) or "the hub has none of it"
        rest = f"the package {description.package} has {', '.join(package)} alone" if package else "no package has it"
        return Refused(
            Reason.DATA,
            f"{want}, which cannot be had from here: no local file, {why}, and {rest}; {remedy}",
            "the image that fetches",
        )

    def lack_of_text(self, source: DatasetSource, what: str) -> Refused | None:
        """The same of text to calibrate on, which `source.substitute` may give instead.

        Raises:
            BadManifest: it holds no text, or no source has the split to draw from.
        """
        description = self.known[source.name]
        substitute = self.known[source.substitute] if source.substitute is not None else None
        stand_in = substitute.calibration_split if substitute else None
        if substitute and stand_in and not self._missing(substitute, source, [stand_in]):
            return None
        if description.calibration_split is None:
            texts = sorted(name for name, one in self.known.items() if one.calibration_split is not None)
            raise BadManifest(
                f"{source.name} holds no text to calibrate on, as {what} needs it",
                hint=f"these do: {', '.join(texts)}, or a text of your own as file:PATH",
            )
        return self.lack(source, what)

    def _missing(self, description: DatasetDescription, source: DatasetSource, needed: Sequence[str]) -> list[str]:
        """Those of `needed` that the best source to be had lacks; one source has to have all.

        Local files are given only where they have what is needed.
        """
        package = _in_package(description)
        if _local(description, source) or set(needed) <= set(package):
            return []
        hub = _on_hub(description)
        if set(needed) <= set(hub) and self._why_not_on_hub(description) is None:
            return []
        return [split for split in needed if split not in package]

    @property
    def silence(self) -> str | None:
        """Why the hub gives no answer; None where it gave one, or was not asked."""
        return self._silent

    def _why_not_on_hub(self, description: DatasetDescription) -> str | None:
        name, revision = description.hub_repository, description.hub_revision
        if name is None:
            return "it is not on the hub"
        if revision is None:
            return f"no revision of {name} on the hub is pinned"
        if self.look_up is None:
            return None
        if self._silent is None and name not in self._answers:
            try:
                self.look_up(name, revision)
            except HubUnavailable as silent:
                self._silent = f"the hub gives no answer ({silent.message})"
            except NotOnHub as refused:
                self._answers[name] = refused.message
            else:
                self._answers[name] = None
        return self._answers.get(name, self._silent)


def _local(description: DatasetDescription, source: DatasetSource) -> list[str]:
    return [split for split, place in description.splits.items() if place.local in source.files]


def _on_hub(description: DatasetDescription) -> list[str]:
    pinned = description.hub_repository is not None and description.hub_revision is not None
    return [split for split, place in description.splits.items() if pinned and place.hub is not None]


def _in_package(description: DatasetDescription) -> list[str]:
    packaged = description.package is not None
    return [split for split, place in description.splits.items() if packaged and place.package is not None]


def data_sources(catalog: ImageCatalog, look_up: DatasetLookUp | None = None) -> DataSources:
    """The data sets that the catalog's fetch image knows."""
    fetches = catalog.only(Operation.FETCH).description
    return DataSources({dataset.name: dataset for dataset in fetches.datasets}, look_up)
