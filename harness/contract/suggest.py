"""Quotes a name that a user wrote, and names the nearest known one where it is unknown."""

import difflib
import reprlib
from collections.abc import Iterable

_QUOTED_CHARACTERS = 100
_SHORT = reprlib.Repr()
_SHORT.maxstring = _QUOTED_CHARACTERS


def quoted(text: str) -> str:
    """The text in quotes, with escapes for what is not printable; of a long one its beginning and end."""
    return _SHORT.repr(text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or nothing."""
    nearest = difflib.get_close_matches(name[:_QUOTED_CHARACTERS].lower(), sorted(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence: what is unknown, the nearest name if one is near, else all that are known."""
    names = sorted(known)
    near = did_you_mean(name, names) or f"; known: {', '.join(names) or 'none'}"
    return f"unknown {kind} {quoted(name)}{near}"
