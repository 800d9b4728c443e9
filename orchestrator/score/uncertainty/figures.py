"""The resampled figures of a run: its values, their ratios to dense, and its overall metrics."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.evidence.items import Items, ItemsFile, NoInterval, read_items
from orchestrator.evidence.observation import DENSE, Observation, Variant
from orchestrator.score import Ratio, Score
from orchestrator.score.uncertainty.estimate import Estimate, ratio, root_mean_square
from orchestrator.score.uncertainty.records import Resampling
from orchestrator.score.uncertainty.resampling import columns_of, resample
from orchestrator.tracks import Track


class NoItems(NoInterval):
    """The figure is not one of items: a cost, a size, a speed."""

    def __init__(self) -> None:
        super().__init__("not made of items, so there is nothing to resample")


_Key = tuple[Track, str, str, str, Variant]
_Source = tuple[str, str]


class Figures:
    """Resampled at once, from the observations of a run and the files of their items."""

    def __init__(
        self, observations: Iterable[Observation], files: Mapping[str, ItemsFile], resampling: Resampling
    ) -> None:
        self._observations = {_key(entry): entry for entry in observations}
        self._reasons: dict[_Source, NoInterval] = {}
        self._items: dict[_Source, Items] = {}
        printed: dict[_Source, tuple[float, Items]] = {}
        for entry in self._observations.values():
            try:
                self._read(entry, files, printed)
            except NoInterval as reason:
                self._reasons[entry.source, entry.metric] = reason
        columns = columns_of(printed, self._reasons)
        self._estimates = dict(zip(columns, resample(tuple(columns.values()), resampling), strict=True))

    def _read(
        self, entry: Observation, files: Mapping[str, ItemsFile], printed: dict[_Source, tuple[float, Items]]
    ) -> None:
        """Each file once, although WikiText-2 enters two tracks."""
        source = (entry.source, entry.metric)
        if source not in printed and source not in self._reasons:
            if entry.source not in files:
                raise NoItems
            self._items[source] = read_items(files[entry.source], entry.metric)
            printed[source] = (entry.value, self._items[source])

    def observation(self, track: Track, part: str, name: str, model: str, variant: Variant) -> Observation | None:
        return self._observations.get((track, part, name, model, variant))

    def items(self, entry: Observation) -> Items | None:
        """The outcomes behind a value, where they are readable."""
        return self._items.get((entry.source, entry.metric))

    def value(self, entry: Observation) -> Estimate:
        """The value itself.

        Raises:
            NoInterval: it cannot be resampled.
        """
        source = (entry.source, entry.metric)
        if source in self._reasons:
            raise self._reasons[source]
        return self._estimates[source]

    def ratio(self, track: Track, variant: Variant, term: Ratio) -> Estimate:
        """A term of a score: the value and the dense value, of the same items in each resample.

        Raises:
            NoInterval: one of the two cannot be resampled.
        """
        own = self._observations.get((track, term.part, term.name, term.model, variant))
        dense = self._observations.get((track, term.part, term.name, term.model, DENSE))
        if own is None or dense is None or track.is_relative:
            raise NoItems
        value, reference = self.value(own), self._reference(dense)
        if value.influence.keys() != reference.influence.keys():
            raise NoInterval("not of the same items as the dense value")
        return ratio(value, reference) if own.higher_is_better else ratio(reference, value)

    def _reference(self, dense: Observation) -> Estimate:
        try:
            return self.value(dense)
        except NoItems:
            raise
        except NoInterval as reason:
            raise NoInterval(f"the dense value: {reason}") from reason

    def overall(self, score: Score) -> Estimate:
        """The overall metric, from the same terms as the printed one.

        Raises:
            NoInterval: there is no score, or one of its terms cannot be resampled.
        """
        groups: dict[str, list[Estimate]] = {}
        for term in score.ratios:
            try:
                estimate = self.ratio(score.track, score.variant, term)
            except NoItems:
                raise
            except NoInterval as reason:
                raise NoInterval(f"{term.name} of {term.model}: {reason}") from reason
            groups.setdefault(term.group, []).append(estimate)
        if score.value is None:
            raise NoInterval(score.reason or "there is no score")
        return replace(root_mean_square(tuple(groups.values())), value=score.value)


def _key(entry: Observation) -> _Key:
    return entry.track, entry.part, entry.name, entry.model, entry.variant
