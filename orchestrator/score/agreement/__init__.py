"""How far a backend's accuracies agree with the reference's, item by item, where a run has both of a checkpoint."""

from orchestrator.score.agreement.comparing import run_agreement
from orchestrator.score.agreement.records import ItemDifference, RunAgreement, TaskAgreement

__all__ = ["ItemDifference", "RunAgreement", "TaskAgreement", "run_agreement"]
