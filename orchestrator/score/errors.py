"""What makes a list of observations unusable as a whole. A single bad value is excluded with its reason instead."""

from orchestrator.errors import OrchestratorError


class BadObservation(OrchestratorError):
    """Two observations claim the same place, or contradict each other about what is better."""
