"""What a decision is to keep and to prefer: limits in absolute units, as they are written, and weights."""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from harness.contract import Frozen, quoted, unknown
from orchestrator.manifest.fields import Word

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*(\S+)")
_BYTES = {f"{prefix}iB": 1024.0**power for power, prefix in enumerate("KMGT", 1)} | {
    f"{prefix}B": 1000.0**power for power, prefix in enumerate("kMGT", 1)
}
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PERCENT = {"%": 0.01}
_RATE = {"tokens/s": 1.0}


class Quantity(StrEnum):
    """What variants are weighed by. `loss` is the share of dense's accuracy that is lost (docs/deciding.md)."""

    LOSS = "loss"
    MEMORY = "memory"
    DISK = "disk"
    SPEED = "speed"
    TIME = "time"

    @property
    def higher_is_better(self) -> bool:
        return self is Quantity.SPEED

    @property
    def unit(self) -> str:
        return _UNITS[self]


_UNITS = {
    Quantity.LOSS: "fraction",
    Quantity.MEMORY: "bytes",
    Quantity.DISK: "bytes",
    Quantity.SPEED: "tokens/s",
    Quantity.TIME: "seconds",
}
BROUGHT = (Quantity.MEMORY, Quantity.DISK, Quantity.SPEED)
"""What compressing is for."""


def _checked(units: Mapping[str, float], example: str, most: float | None = None) -> Callable[[object], object]:
    def check(value: object) -> object:
        found = _amount(value, units)
        if found is None or (most is not None and found > most):
            raise ValueError(f"{quoted(str(value))} is no amount here; write a number and its unit, such as {example}")
        return value

    return check


def _amount(value: object, units: Mapping[str, float]) -> float | None:
    match = _NUMBER.fullmatch(value) if isinstance(value, str) and value.isascii() else None
    if match is None or match[2] not in units or len(match[1]) > 20:
        return None
    return float(match[1]) * units[match[2]]


Size = Annotated[str, BeforeValidator(_checked(_BYTES, "16GiB"))]
Share = Annotated[str, BeforeValidator(_checked(_PERCENT, "2%", most=1.0))]
Rate = Annotated[str, BeforeValidator(_checked(_RATE, "30tokens/s"))]
Duration = Annotated[str, BeforeValidator(_checked(_SECONDS, "1h"))]
Weight = Annotated[float, Field(ge=0, le=1000)]


def _known_quantities(weights: Any) -> Any:
    for name in weights if isinstance(weights, dict) else ():
        if name not in _UNITS:
            raise ValueError(unknown("quantity", str(name), [one.value for one in Quantity]))
    return weights


def _some_weight(weights: dict[Quantity, float]) -> dict[Quantity, float]:
    if not any(weights.values()):
        raise ValueError("no quantity has a weight above 0, so that nothing is preferred; name one")
    return weights


class DecideEntry(Frozen):
    """Limits as written: a number and its unit. They change what is recommended, and nothing that is run.

    `backend` and `batch` choose what serves, by default any backend and the smallest batch that was timed. `prefer` has
    the weights of a ranking, see `orchestrator.decide.ranking`.
    """

    max_memory: Size | None = None
    max_disk: Size | None = None
    max_loss: Share = "2%"
    min_speed: Rate | None = None
    max_compress_time: Duration | None = None
    backend: Word | None = None
    batch: PositiveInt | None = None
    prefer: Annotated[dict[Quantity, Weight], BeforeValidator(_known_quantities), AfterValidator(_some_weight)] = {
        Quantity.LOSS: 1.0,
        Quantity.MEMORY: 1.0,
        Quantity.SPEED: 1.0,
    }

    @property
    def limits(self) -> dict[Quantity, float]:
        """The end of what is allowed of each quantity that has one: bytes, a fraction, tokens/s, seconds.

        A loss of 100 % is no limit, so that a variant whose loss is not known keeps it, too.
        """
        written = {
            Quantity.LOSS: (self.max_loss, _PERCENT),
            Quantity.MEMORY: (self.max_memory, _BYTES),
            Quantity.DISK: (self.max_disk, _BYTES),
            Quantity.SPEED: (self.min_speed, _RATE),
            Quantity.TIME: (self.max_compress_time, _SECONDS),
        }
        amounts = {quantity: _amount(text, units) for quantity, (text, units) in written.items()}
        any_loss = amounts[Quantity.LOSS] == 1
        return {
            quantity: amount
            for quantity, amount in amounts.items()
            if amount is not None and not (any_loss and quantity is Quantity.LOSS)
        }


def read_seconds(text: str) -> float | None:
    """A time as typed, such as `30min`; None where it is none."""
    return _amount(text, _SECONDS)


def read_preference(text: str) -> dict[str, object]:
    """Weights as typed, `speed=2,memory=1`; a number that is none stays as it is, to be refused with the rest."""
    return {name.strip(): _weight(weight) for name, _, weight in (part.partition("=") for part in text.split(","))}


def _weight(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text
