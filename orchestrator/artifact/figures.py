"""What a run says, made of its stored results alone: scores and verdicts. The same when it is packed and verified."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.artifact.contents import Scoring
from orchestrator.evidence.reading import Evidence, read_evidence
from orchestrator.images.catalog import ImageCatalog
from orchestrator.score.claims import RunClaims, judge
from orchestrator.score.claims_file import ClaimsFile
from orchestrator.score.scores import RunScores, score_run
from orchestrator.store import RunRecord, Store


@dataclass(frozen=True)
class Figures:
    """`verdicts` are by the names of the files of claims."""

    evidence: Evidence
    scores: RunScores
    verdicts: Mapping[str, RunClaims]


def make_figures(
    record: RunRecord, store: Store, catalog: ImageCatalog, scoring: Scoring, claims: Mapping[str, ClaimsFile]
) -> Figures:
    """Raises `Unreadable` where a stored result is damaged; see `orchestrator.evidence.reading.read_evidence`."""
    evidence = read_evidence(record, store, catalog, scoring.resampling)
    return Figures(
        evidence=evidence,
        scores=score_run(evidence, scoring.mode),
        verdicts={name: judge(one, evidence, scoring.mode) for name, one in claims.items()},
    )
