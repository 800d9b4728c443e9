"""What `artifact reproduce` finds: a row for each thing that was to come out again, and the conditions of both runs."""

from enum import StrEnum
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from harness.contract import Frozen, Sha256


class Kind(StrEnum):
    """How a value is judged. `MEASURED` are seconds, speeds and peaks, of which nothing but ratios is."""

    BYTES = "equal bytes"
    COUNTS = "counts"
    PICKS = "picks"
    LOG_LIKELIHOODS = "log-likelihoods"
    PERPLEXITY = "perplexity"
    DIVERGENCE = "divergence from dense"
    RATIO = "ratio to dense"
    SCORE = "score"
    MEASURED = "measurement"


class Verdict(StrEnum):
    PASS = "PASS"  # noqa: S105
    FAIL = "FAIL"
    NOT_RUN = "NOT RUN"


class Why(StrEnum):
    """Why something was not run or not judged. `SAMPLE` and `TIME` are what was asked for, `NEVER` is as it has to be;
    with `HERE` it was to be run, and has no result."""

    SAMPLE = "not in the sample"
    TIME = "the time was up"
    HERE = "no result here"
    OTHERWISE = "something else here"
    PARTS = "not all that it is made of was run"
    BUSY = "a machine was busy"
    NEVER = "never judged"


class Judgement(Frozen):
    """`what` is a stage of the run, or a score or ratio of a variant. `says` is a clause: what was found and what may
    be, or, of what was not run, why."""

    what: str
    kind: Kind
    verdict: Verdict
    says: str = ""
    why: Why | None = None


class Conditions(Frozen):
    """What results follow from beside what is asked: of the run that was packed, or of the one here."""

    device: str
    runtime: str
    version: str | None
    commit: str | None
    threads: int | None


class Sample(Frozen):
    """What was asked for. `stages` were drawn by `seed`; None is all."""

    stages: PositiveInt | None = None
    within_seconds: PositiveFloat | None = None
    seed: int = 0


class Reproduction(Frozen):
    """`others` says of each reason why bytes need not be equal how many stages it concerns."""

    schema_version: Literal[1] = 1
    file: str
    sha256: Sha256
    run: str
    again: str
    packed: Conditions
    here: Conditions
    sample: Sample
    seconds: NonNegativeFloat
    others: dict[str, PositiveInt] = {}
    judgements: tuple[Judgement, ...]

    def of(self, verdict: Verdict) -> tuple[Judgement, ...]:
        return tuple(one for one in self.judgements if one.verdict is verdict)

    @property
    def holds(self) -> bool:
        """Whether something passes, nothing fails, and what was to be run has a result."""
        lacking = any(one.why is Why.HERE for one in self.judgements)
        return bool(self.of(Verdict.PASS)) and not self.of(Verdict.FAIL) and not lacking
