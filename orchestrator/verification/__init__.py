"""A short self-test of a deployment backend on this machine, and the record of how it went."""

from orchestrator.verification.record import Check, Outcome, Verification, read_verification, read_verifications
from orchestrator.verification.verify import verify_backend

__all__ = ["Check", "Outcome", "Verification", "read_verification", "read_verifications", "verify_backend"]
