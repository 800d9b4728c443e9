"""The state of a training on disk, so that a killed one goes on where it stood and ends the same."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_NAME = "recovery.safetensors"


@dataclass
class TrainingState:
    """`step` steps are done. `tensors` are by role and name; `scaler` is the loss scaler's own state."""

    step: int = 0
    optimiser_step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    scaler: dict[str, float | int] = field(default_factory=dict)
    adapters: Mapping[str, Tensor] = field(default_factory=dict)
    first_moments: Mapping[str, Tensor] = field(default_factory=dict)
    second_moments: Mapping[str, Tensor] = field(default_factory=dict)
    best: Mapping[str, Tensor] = field(default_factory=dict)


_ROLES = ("adapters", "first_moments", "second_moments", "best")
_FACTS = ("step", "optimiser_step", "best_loss", "best_step", "scaler")


def save_state(folder: Path, state: TrainingState, data: str) -> None:
    """Replace the state on disk by rename. `data` identifies what is trained on."""
    tensors = {
        f"{role}:{name}": tensor.detach().to("cpu").contiguous()
        for role in _ROLES
        for name, tensor in getattr(state, role).items()
    }
    facts = {name: getattr(state, name) for name in _FACTS} | {"data": data}
    partial = folder / f"{_NAME}.partial"
    save_file(tensors, partial, metadata={"facts": json.dumps(facts)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(folder / _NAME)


def load_state(folder: Path, data: str) -> TrainingState | None:
    """The state that an interrupted attempt left; None where there is none, or one of a training on other data."""
    path = folder / _NAME
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        if facts.pop("data") != data:
            return None
        roles: dict[str, dict[str, Tensor]] = {role: {} for role in _ROLES}
        for key in file.keys():  # noqa: SIM118  not a dictionary
            role, name = key.split(":", 1)
            roles[role][name] = file.get_tensor(key)
    return TrainingState(**(facts | roles))
