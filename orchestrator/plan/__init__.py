"""Manifest to plan: which images do what, in which order, what is impossible beforehand, and why."""

from orchestrator.plan.building import build_plan
from orchestrator.plan.resolving import resolve_backend, resolve_method, resolve_setting

__all__ = ["build_plan", "resolve_backend", "resolve_method", "resolve_setting"]
