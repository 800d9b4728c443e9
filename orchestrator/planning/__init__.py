"""Manifest to stages, and the key of a stage."""

from orchestrator.planning.building import build_plan
from orchestrator.planning.resolving import BACKEND_ALIASES, resolve_backend, resolve_method, resolve_setting
from orchestrator.planning.stage import (
    HostFolder,
    NotPlanned,
    Plan,
    Stage,
    StageOutput,
    Subject,
    key_material,
    stage_key,
)

__all__ = [
    "BACKEND_ALIASES",
    "HostFolder",
    "NotPlanned",
    "Plan",
    "Stage",
    "StageOutput",
    "Subject",
    "build_plan",
    "key_material",
    "resolve_backend",
    "resolve_method",
    "resolve_setting",
    "stage_key",
]
