"""A score and what it rests on."""

from pydantic import ConfigDict

from harness.contract import Frozen
from orchestrator.evidence.observation import Variant
from orchestrator.tracks import Mode, Track


class Ratio(Frozen):
    """One term of a score. `group` is what it is averaged in first: its part, or in strict mode its model's family."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    group: str
    part: str
    name: str
    model: str
    reference: float
    value: float
    ratio: float


class MissingValue(Frozen):
    """A place of the complete score that holds no ratio."""

    part: str
    name: str
    model: str
    reason: str


class Coverage(Frozen):
    """What went into a score. `names` and `models` are those with at least one ratio, of the expected ones.

    `choices` says, in a clause each, what the manifest chose to count.
    """

    noun: str
    names: tuple[str, ...]
    names_expected: tuple[str, ...]
    models: tuple[str, ...]
    models_expected: tuple[str, ...]
    values: int
    values_expected: int
    missing: tuple[MissingValue, ...] = ()
    choices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        return self.values_expected > 0 and self.values == self.values_expected

    @property
    def summary(self) -> str:
        """For instance `3 of 9 data sets`, or `9 of 9 data sets, 1 of 2 models (9 of 18 values)`; then the choices."""
        text = f"{len(self.names)} of {len(self.names_expected)} {self.noun}"
        if len(self.models_expected) > 1:
            text += f", {len(self.models)} of {len(self.models_expected)} models"
            text += f" ({self.values} of {self.values_expected} values)"
        return "; ".join((text, *self.choices))


class PartScore(Frozen):
    """The score of one part, or of one family in strict mode; `value` is None where nothing of it could be compared."""

    name: str
    value: float | None
    values: int
    values_expected: int


class Score(Frozen):
    """One overall metric of one variant. Dense is 100, in every track but the third. `reason` is given iff `value` is
    None. A score that is not `is_complete` is partial: what it leaves out stands in `coverage.missing`."""

    track: Track
    variant: Variant
    mode: Mode
    value: float | None
    reason: str | None = None
    parts: tuple[PartScore, ...]
    coverage: Coverage
    ratios: tuple[Ratio, ...] = ()

    @property
    def is_partial(self) -> bool:
        return self.value is not None and not self.coverage.is_complete

    def part(self, name: str) -> PartScore:
        return next(part for part in self.parts if part.name == name)
