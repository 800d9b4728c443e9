"""What scores are computed from: measured values, and places where there is none, with the reason."""

from typing import Self

from pydantic import ConfigDict

from harness.contract import Frozen
from orchestrator.tracks import Track


class Variant(Frozen):
    """One way to have a model: dense (no method), or compressed by a method at a setting."""

    method: str | None = None
    setting: str | None = None

    @property
    def is_dense(self) -> bool:
        return self.method is None

    @property
    def label(self) -> str:
        return " ".join(part for part in (self.method or "dense", self.setting) if part)


DENSE = Variant()


class Observation(Frozen):
    """One measured value.

    `part` and `name` say where it enters the track's score (see `expect`): a part is averaged first, `name` is the data
    set or measure within it. `protocol` says how it was measured; values of different protocols are never compared.
    `source` says where the value comes from (a stage key, a table), `metric` which of the source's metrics it is, where
    that has several. `noise_floor` is the relative difference that repeats of this very measurement show, where it was
    measured. `caveat` says why a value is not that of the variant's own weights, where it is not. A failed measurement
    is a `Gap`, not a value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    track: Track
    part: str
    name: str
    model: str
    family: str | None = None
    method: str | None = None
    setting: str | None = None
    value: float
    unit: str = ""
    higher_is_better: bool
    protocol: str = ""
    metric: str = ""
    source: str = ""
    noise_floor: float | None = None
    caveat: str | None = None

    @property
    def variant(self) -> Variant:
        if self.method is None:
            return DENSE
        return Variant(method=self.method, setting=self.setting)

    def of(self, variant: Variant, value: float) -> Self:
        """The same measurement made of another variant."""
        return self.model_copy(update={"method": variant.method, "setting": variant.setting, "value": value})


class Gap(Frozen):
    """Why values of a variant are missing. A field that is None stands for all: a failed `compress` leaves one gap."""

    variant: Variant
    reason: str
    track: Track | None = None
    part: str | None = None
    name: str | None = None
    model: str | None = None

    def covers(self, variant: Variant, track: Track, part: str, name: str, model: str) -> bool:
        wanted = (self.track, self.part, self.name, self.model)
        place = (track, part, name, model)
        return self.variant == variant and all(
            mine is None or mine == theirs for mine, theirs in zip(wanted, place, strict=True)
        )
