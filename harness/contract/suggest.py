"""Names the nearest known name where a given one is unknown."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or nothing."""
    nearest = difflib.get_close_matches(name.lower(), sorted(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence: what is unknown, the nearest name if one is near, else all that are known."""
    names = sorted(known)
    near = did_you_mean(name, names)
    return f"unknown {kind} {name!r}{near}" if near else f"unknown {kind} {name!r}; known: {', '.join(names) or 'none'}"
