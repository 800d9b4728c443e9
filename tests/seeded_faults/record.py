"""What a campaign found, as it is kept: `outcomes/AREA.jsonl`, and `explained.toml` about faults that stayed."""

import json
import tomllib
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from scipy.stats import binomtest

HERE = Path(__file__).parent
OUTCOMES = HERE / "outcomes"
EXPLAINED = HERE / "explained.toml"
NOTICED = ("noticed", "timeout")


@dataclass(frozen=True)
class Share:
    """`count` of `of`, with the exact (Clopper-Pearson) 95 % interval of the share in all that were drawn from."""

    count: int
    of: int

    @property
    def value(self) -> float:
        return self.count / self.of

    @cached_property
    def interval(self) -> tuple[float, float]:
        found = binomtest(self.count, self.of).proportion_ci(method="exact")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Tried:
    """A fault, and what came of it when it was drawn and, where that was nothing, with the tests written since."""

    name: str
    outcome: str
    difference: str
    """Lines behind `-` and `+`."""
    since: str | None = None

    @property
    def noticed_when_drawn(self) -> bool:
        return self.outcome in NOTICED

    @property
    def noticed(self) -> bool:
        return self.noticed_when_drawn or self.since in NOTICED


@dataclass(frozen=True)
class Campaign:
    """An area's sample: `tried` of `faults` that could be seeded in its files, in the order of the draw."""

    area: str
    seed: int
    faults: int
    tests: int
    seconds_each: float
    """Of processor time that one fault's tests got, the quickest first."""
    unusable: list[str] = field(default_factory=list)
    """Tests that do not pass without a fault in the copy."""
    tried: list[Tried] = field(default_factory=list)

    def again(self, outcomes: dict[str, str]) -> "Campaign":
        """With what came of those that were tried once more."""
        tried = [replace(one, since=outcomes.get(one.name, one.since)) for one in self.tried]
        return replace(self, tried=tried)

    def tally(self, equivalent: dict[str, str]) -> "Tally":
        """`equivalent` says by name of a fault why it changes nothing; it does not count."""
        counted = [one for one in self.tried if one.name not in equivalent]
        return Tally(
            equivalent=len(self.tried) - len(counted),
            when_drawn=Share(sum(one.noticed_when_drawn for one in counted), len(counted)),
            now=Share(sum(one.noticed for one in counted), len(counted)),
            outcomes=Counter(one.outcome for one in self.tried),
        )


@dataclass(frozen=True)
class Tally:
    equivalent: int
    when_drawn: Share
    """Noticed of those that change something, before a test was written for any of them: the share to believe."""
    now: Share
    outcomes: Counter[str]


def write(campaign: Campaign, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [vars(campaign) | {"tried": len(campaign.tried)}, *(vars(one) for one in campaign.tried)]
    text = "".join(f"{json.dumps({key: value for key, value in one.items() if value is not None})}\n" for one in lines)
    (folder / f"{campaign.area}.jsonl").write_text(text, "utf-8")


def read(file: Path) -> Campaign:
    first, *tried = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return Campaign(**first | {"tried": [Tried(**one) for one in tried]})


def explained() -> tuple[dict[str, str], dict[str, str]]:
    """By name of a fault why it changes nothing that counts, and why one that does stays unnoticed."""
    said = tomllib.loads(EXPLAINED.read_text("utf-8"))
    return said["equivalent"], said["unnoticed"]
