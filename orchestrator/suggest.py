"""Turns an unknown name into an error that names the nearest known one."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence: what is unknown, the nearest name if one is near, else all that are known."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=1)
    if near:
        return f"unknown {kind} {name!r}; did you mean {near[0]!r}?"
    return f"unknown {kind} {name!r}; known: {', '.join(names) or 'none'}"
