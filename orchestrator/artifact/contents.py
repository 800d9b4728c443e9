"""What an artifact holds, under which names, and what a value of another run may differ by, as declared beforehand."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from harness.contract import Frozen
from orchestrator.evidence.resampling import Resampling
from orchestrator.tracks import Mode

CONTENTS_NAME = "artifact.json"
README_NAME = "README.md"
MANIFEST_NAME = "manifest.json"
ENVIRONMENT_NAME = "environment.json"
SCORES_NAME = "scores.json"
CRATE_NAME = "ro-crate-metadata.json"
CLAIMS_FOLDER, VERDICTS_FOLDER = "claims", "verdicts"
STORE_FOLDER, IMAGES_FOLDER, SOURCE_FOLDER = "store", "images", "source"

Share = Annotated[float, Field(ge=0, le=1)]


class Tolerances(Frozen):
    """By the kind of a value, what it may differ by where it is measured again.

    On the same lock, source and processor the outcomes of items, checkpoints and counts are equal, byte by byte.
    Elsewhere a task may have `most_other_picks` of its items picked otherwise, and always one; its log-likelihoods may
    differ by `most_mean_nats` on average of a choice, or of `tokens_of_a_choice` tokens of a text, and a perplexity by
    `most_perplexity_percent`. A score lies within the interval that was packed. Times are never compared; the ratio of
    a speed, or of a memory, to dense's may be `most_ratio_factor` times the packed one, or as many times less.

    What they rest on: docs/deployed-accuracy.md for picks and nats (float32 beside bfloat16), else docs/artifacts.md.
    """

    most_other_picks: Share = 0.08
    most_mean_nats: PositiveFloat = 0.85
    tokens_of_a_choice: PositiveFloat = 10.0
    most_perplexity_percent: PositiveFloat = 1.0
    most_ratio_factor: Annotated[float, Field(gt=1)] = 1.5


class Scoring(Frozen):
    """How the scores and verdicts in the artifact were made."""

    mode: Mode = Mode.PAPER
    resampling: Resampling = Resampling()


class Contents(Frozen):
    """`artifact.json`. `program` and `packed_by` are the versions that ran it, and that made its figures and packed it.
    `missing` says in sentences what a whole artifact would hold, `withheld` how often what was taken out of its texts.
    `other_source` names the stages whose result is of other source than the one that is packed, `origin` says where
    that and the images come from.
    """

    schema_version: Literal[1] = 1
    run: str
    program: str
    packed_by: str = "unknown"
    commit: str | None = None
    harness_digest: str | None = None
    origin: str
    stages: NonNegativeInt
    results: NonNegativeInt
    holds: tuple[str, ...]
    missing: tuple[str, ...] = ()
    withheld: dict[str, NonNegativeInt] = {}
    other_source: tuple[str, ...] = ()
    scoring: Scoring = Scoring()
    tolerances: Tolerances = Tolerances()
