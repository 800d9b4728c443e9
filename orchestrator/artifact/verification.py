"""What `artifact verify` finds: a row for each thing that can be checked, and for each that cannot, who says so."""

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from harness.contract import Frozen, Sha256
from orchestrator.artifact.contents import (
    CLAIMS_FOLDER,
    CONTENTS_NAME,
    CRATE_NAME,
    IMAGES_FOLDER,
    README_NAME,
    SOURCE_FOLDER,
    STORE_FOLDER,
)


class Level(StrEnum):
    """What a check is worth. Whoever has this program can make checksums anew, but no key that is not theirs."""

    FORM = "form"
    CHECKSUMS = "checksums"
    RECOMPUTATION = "recomputation"
    SIGNATURE = "signature"


class Outcome(StrEnum):
    HOLDS = "holds"
    FAILS = "fails"
    NOT_CHECKED = "not checked"


class Finding(Frozen):
    """Something that is not so: in which file, or of which stage, and a clause."""

    what: str
    reason: str


class Check(Frozen):
    """One row. `count` of what was looked at; `reason` says why nothing was, or what was left out."""

    name: str
    level: Level
    outcome: Outcome
    count: NonNegativeInt = 0
    findings: tuple[Finding, ...] = ()
    reason: str = ""


class Statement(Frozen):
    """What somebody says and nothing else in the file gives. `files` are patterns of the names that hold it.

    Within a file of results or outcomes some fields are checked all the same; `says` names those that are not.
    """

    files: tuple[str, ...]
    says: str

    def is_in(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.files)


_STAGES = f"{STORE_FOLDER}/stages/*"
STATEMENTS = (
    Statement(
        files=(f"{_STAGES}/out/*", f"{_STAGES}/result.json", f"{_STAGES}/provenance.json"),
        says="the log-likelihoods and losses of the items are those of these models: running it again shows it",
    ),
    Statement(
        files=(f"{_STAGES}/result.json", f"{_STAGES}/provenance.json"),
        says="seconds, samples of speeds, memory, energy, sizes that no other result repeats, environments, notes",
    ),
    Statement(
        files=(f"{_STAGES}/provenance.json",),
        says="dates, durations, load and names of machines; the digests in keys of runs whose source is not packed",
    ),
    Statement(files=(f"{_STAGES}/request.json",), says="the request's version of the contract, its threads and GPUs"),
    Statement(
        files=(f"{STORE_FOLDER}/runs/*/run.json",),
        says="dates, durations, decisions, refusals and failures; commit, data folder and version of the program",
    ),
    Statement(files=(f"{STORE_FOLDER}/runs/*/imported/*",), says="figures of others"),
    Statement(
        files=(f"{CLAIMS_FOLDER}/*", CONTENTS_NAME),
        says="that claims and tolerances were declared before the run; what is said to be missing or withheld",
    ),
    Statement(files=(README_NAME, CRATE_NAME), says="texts and metadata, of which no figure is made"),
    Statement(
        files=(f"{IMAGES_FOLDER}/*",),
        says="Dockerfiles, and descriptions but for what results repeat of them; locks where containers ran",
    ),
    Statement(files=(f"{SOURCE_FOLDER}/*",), says="source that no key names"),
    Statement(files=(f"{_STAGES}/*.jsonl", f"{_STAGES}/*.log"), says="what workers logged"),
    Statement(files=(f"{STORE_FOLDER}/artifacts/*",), says="that these weights are what the method makes"),
)


class Verification(Frozen):
    """`signers` are the principals whose signature of the very file was checked."""

    schema_version: Literal[1] = 1
    file: str
    sha256: Sha256
    size_bytes: NonNegativeInt
    run: str | None = None
    seconds: NonNegativeFloat
    checks: tuple[Check, ...]
    stated: tuple[Statement, ...] = ()
    signers: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return all(one.outcome is not Outcome.FAILS for one in self.checks)

    @property
    def is_sealed(self) -> bool:
        """Whether a signature guards what is only stated."""
        return bool(self.signers)
