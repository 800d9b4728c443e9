"""What a conversion is to the job that writes it: what replaces which stored tensor, and what becomes of the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from harness.contract import CheckpointDescriptor, CheckpointFormat, Reason
from harness.errors import Unsupported

Replacement = Callable[[], Mapping[str, Tensor]]
"""Makes the tensors that stand in the new checkpoint where one stored tensor stood, by their whole names."""


@dataclass(frozen=True)
class Conversion:
    """`replaced` is by the stored tensors' names; what it does not name is copied.

    `config` is the whole new config.json but for what every export does to it. `descriptor` is the source's with what
    the conversion changes; its files and notes are filled in on publishing. `documents` are further files, by name.
    """

    replaced: Mapping[str, Replacement]
    config: Mapping[str, Any]
    descriptor: CheckpointDescriptor
    linears: int
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def nothing() -> Mapping[str, Tensor]:
    """The replacement of a tensor that another one's replacement stands for as well."""
    return {}


def refuse_source(source: CheckpointFormat, target: CheckpointFormat, why: str, hint: str) -> Unsupported:
    """The error for a pair of layouts between which there is no conversion."""
    return Unsupported(Reason.FORMAT, f"{source.value} is not exported to {target.value}: {why}", hint=hint)


def named(linear: str, refusal: Unsupported) -> Unsupported:
    """The same refusal, with the name of the linear that it is about."""
    return Unsupported(refusal.reason or Reason.FORMAT, f"{linear}: {refusal.message}", hint=refusal.hint)
