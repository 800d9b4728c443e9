"""What a file of claims may state: bounds on figures that are compared, and values that others have published."""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, ValidationError, model_validator

from harness.contract import Frozen, unknown
from orchestrator.errors import BadManifest
from orchestrator.evidence.value import Variant
from orchestrator.manifest.document import read_document, read_text
from orchestrator.score.sides import Figure, Selection, Take
from orchestrator.tracks import Track


class Bounds(Frozen):
    """Where a claim says that a figure lies. An end that is left out is infinite; both ends belong to it."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        if None not in (self.at_least, self.at_most) and self.low > self.high:
            raise ValueError("at_least is above at_most")
        return self

    @property
    def low(self) -> float:
        return float("-inf") if self.at_least is None else self.at_least

    @property
    def high(self) -> float:
        return float("inf") if self.at_most is None else self.at_most


class SideEntry(Frozen):
    """The figure of the variants of a group: `take` of their scores in `track`, over some parts, names, models."""

    of: str
    take: Take = Take.MEAN
    track: Track
    parts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    @property
    def figure(self) -> Figure:
        return Figure(track=self.track, parts=self.parts, names=self.names, models=self.models)


class Claim(Frozen):
    """One figure of `a`, or of `a` against `b`, that lies within bounds.

    `value` is a's own, `ratio` a / b, `difference` a - b, `agreement` Kendall's tau between the orders that the two
    figures give the same variants. `says` is a sentence, `source` where it is claimed.
    """

    name: str
    says: str
    source: str
    a: SideEntry
    b: SideEntry | None = None
    value: Bounds | None = None
    ratio: Bounds | None = None
    difference: Bounds | None = None
    agreement: Bounds | None = None

    @model_validator(mode="after")
    def _one_figure(self) -> Self:
        given = [name for name in ("value", "ratio", "difference", "agreement") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"claim {self.name!r} has to have one of value, ratio, difference and agreement")
        if (self.b is None) != (given == ["value"]):
            raise ValueError(f"claim {self.name!r}: a value is of a alone, and all else of a and b")
        return self

    @property
    def bounds(self) -> Bounds:
        return next(one for one in (self.value, self.ratio, self.difference, self.agreement) if one is not None)


class Published(Frozen):
    """A value that others have printed of the same thing: dense where no method is given.

    It is met where the measured one lies within `tolerance_percent` of it, by the same `protocol`.
    """

    name: str
    source: str
    model: str
    method: str | None = None
    setting: str | None = None
    task: str
    protocol: str
    value: float
    tolerance_percent: PositiveFloat

    @property
    def variant(self) -> Variant:
        return Variant(method=self.method, setting=self.setting)


class ClaimsFile(Frozen):
    """`groups` are names for sets of variants. Names of claims occur once."""

    schema_version: Literal[1]
    title: str
    groups: dict[str, Selection] = {}
    claims: tuple[Claim, ...] = ()
    published: tuple[Published, ...] = Field(default=())

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [*(one.name for one in self.claims), *(one.name for one in self.published)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two claims are called {twice!r}")
        for claim in self.claims:
            for side in (claim.a, claim.b):
                if side is not None and side.of not in self.groups:
                    raise ValueError(f"claim {claim.name!r}: {unknown('group', side.of, self.groups)}")
        return self


def read_claims(path: Path) -> ClaimsFile:
    """Read a file of claims.

    Raises:
        BadManifest: it cannot be read, is not YAML, or not of this form; the message names file and line.
    """
    try:
        document = read_document(read_text(path))
    except BadManifest as broken:
        raise BadManifest(f"{path}, {broken.message}", hint=broken.hint) from broken
    try:
        return ClaimsFile.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        where = first["loc"]
        message = first["msg"].removeprefix("Value error, ")
        at = f"{'.'.join(map(str, where))}: " if where else ""
        raise BadManifest(
            f"{path}, line {document.line_of(tuple(where))}: {at}{message}", hint="see docs/claims.md"
        ) from invalid
