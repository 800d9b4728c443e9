"""Whether documents that were packed say what is computed now: the same fields, with figures up to rounding."""

import json
import math
from collections.abc import Iterator
from typing import Any

ROUNDING = 1e-9
"""Relative: what another processor's vector instructions may make of a mean of thousands of draws."""
_SHORT_CHARACTERS = 60


def differences(packed: Any, found: Any, place: str = "") -> Iterator[str]:
    """Where `found` does not say what was packed. A field that says nothing may be left out of either."""
    if isinstance(packed, dict) and isinstance(found, dict):
        for name in sorted(packed.keys() | found.keys()):
            here = f"{place}.{name}" if place else str(name)
            if name in packed and name in found:
                yield from differences(packed[name], found[name], here)
            elif name in packed and not _says_nothing(packed[name]):
                yield f"{here}: {_short(packed[name])} is packed, and nothing follows"
            elif name in found and not _says_nothing(found[name]):
                yield f"{here}: nothing is packed, and {_short(found[name])} follows"
    elif isinstance(packed, list) and isinstance(found, list) and len(packed) == len(found):
        for number, (one, other) in enumerate(zip(packed, found, strict=True)):
            yield from differences(one, other, f"{place}.{number}")
    elif not _same(packed, found):
        yield f"{place or 'document'}: {_short(packed)} is packed, and {_short(found)} follows"


def _says_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=1e-12)
    return type(one) is type(other) and bool(one == other)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHORT_CHARACTERS else f"{text[:_SHORT_CHARACTERS]}…"
