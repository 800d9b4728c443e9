"""Values as text. A missing value is an en dash, never a number."""

import math

from orchestrator.evidence.value import Interval

MISSING = "\N{EN DASH}"
_KEY_CHARACTERS = 12


def value_text(value: float, unit: str) -> str:
    """A measured value with its unit. `bytes` and `macs` are scaled; a `fraction` is shown in percent."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if unit == "bytes":
        return bytes_text(value)
    if unit == "macs":
        return _scaled(value, 1000, ("MACs", "kMACs", "MMACs", "GMACs", "TMACs", "PMACs"))
    if unit == "seconds":
        return seconds_text(value)
    if unit == "fraction":
        return f"{100 * value:.2f} %"
    if unit == "%":
        return f"{value:.2f} %"
    return _plain(value) if unit in ("", "perplexity") else f"{_plain(value)} {unit}"


def score_text(value: float) -> str:
    return f"{value:.2f}"


def interval_text(interval: Interval, unit: str = "score") -> str:
    """For instance `[85.9, 88.8]`: the ends of a score, a ratio, or a value, whose unit stands beside the value.

    Where the unit goes with the size, as of `[790.12 MiB, 1.20 GiB]`, each end has its own.
    """
    if unit in ("bytes", "macs", "seconds"):
        return f"[{value_text(interval.low, unit)}, {value_text(interval.high, unit)}]"
    scale, form = {"score": (1, ".1f"), "fraction": (100, ".1f"), "ratio": (1, ".3f")}.get(unit, (1, ".4g"))
    return f"[{interval.low * scale:{form}}, {interval.high * scale:{form}}]"


def bytes_text(size_bytes: float) -> str:
    return _scaled(size_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def seconds_text(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def count_text(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def key_text(key: str) -> str:
    """The start of a digest: enough to find the folder by."""
    return key[:_KEY_CHARACTERS]


def plural(count: int, singular: str, several: str | None = None) -> str:
    return f"{count} {singular if count == 1 else several or singular + 's'}"


def _plain(value: float) -> str:
    return f"{value:.4g}" if value < 10_000 else f"{value:.4e}"


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while value >= step and power < len(units) - 1:
        value /= step
        power += 1
    return f"{value:.0f} {units[0]}" if power == 0 else f"{value:.2f} {units[power]}"
