"""A short self-test of a deployment backend on this machine, and the record of how it went."""

from orchestrator.checks.backends.record import Check, Outcome, Verification, read_verification, read_verifications
from orchestrator.checks.backends.verify import verify_backend

__all__ = ["Check", "Outcome", "Verification", "read_verification", "read_verifications", "verify_backend"]
