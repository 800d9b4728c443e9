"""How the store's own documents are written and read: each with its version, and results with a digest of themselves.

A document of an earlier version is upgraded when it is read, one version after the other; it is never rewritten. Fields
that this version does not know are passed over, so that a field more costs nobody a result.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.contract import digest_of
from orchestrator.errors import StoreError

VERSION = "schema_version"
"""The field of a document's version; documents of version 1 have none."""
SEAL = "sha256"
"""The field that holds the digest of all the others."""

Document = dict[str, Any]
Upgrade = Callable[[Document], Document]
Made = TypeVar("Made")

_MALFORMED = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""All that reading, parsing, upgrading and validating bytes of any kind can raise."""


class Unreadable(StoreError):
    """Something in the store that cannot be read. `what` is its path within the store, `reason` a clause."""

    problem = "cannot be read"

    def __init__(self, what: str, reason: str, *, hint: str = "") -> None:
        hint = hint or "run its manifest again: what can be read is not measured again"
        super().__init__(f"{what} {self.problem}: {reason}", hint=hint)
        self.what = what
        self.reason = reason


class Refused(Unreadable):
    """A stored result that its own parts contradict, or whose parts are missing or damaged."""

    problem = "is not used"


def sealed(document: Mapping[str, Any]) -> Document:
    """The document with the sha256 of its canonical form."""
    return {**document, SEAL: digest_of(document)}


def read(what: str, make: Callable[[], Made], *, hint: str = "") -> Made:
    """What `make` reads and validates.

    Raises:
        Unreadable: it raises anything that reading and validating documents of any kind can raise.
    """
    try:
        return make()
    except Unreadable:
        raise
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Unreadable(what, f"{where or 'the document'}: {first['msg']}", hint=hint) from invalid
    except _MALFORMED as malformed:
        kind = "" if type(malformed) is ValueError else f"{type(malformed).__name__}: "
        raise Unreadable(what, " ".join(f"{kind}{malformed}".split()), hint=hint) from malformed


def parse(content: bytes) -> Document:
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    document = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")  # noqa: TRY004
    return document


def unsealed(document: Document, digest: Callable[[Document], str] = digest_of) -> Document:
    """The document without its seal, which is its `digest`; one of version 1 has none.

    Raises:
        ValueError: the seal is missing, or the content is not what was sealed.
    """
    if VERSION not in document and SEAL not in document:
        return document
    content = {name: value for name, value in document.items() if name != SEAL}
    if document.get(SEAL) != digest(content):
        raise ValueError(f"its content does not have the {SEAL} that stands in it")
    return content


def upgraded(document: Document, upgrades: Mapping[int, Upgrade], current: int) -> Document:
    """The document in the form of version `current`. `upgrades[n]` makes version n + 1 of version n.

    Raises:
        ValueError: it is of a later version, or of none.
    """
    version = document.get(VERSION, 1)
    if type(version) is not int or not 1 <= version <= current:
        raise ValueError(f"it is of version {version!r}, and this program reads up to version {current}")
    for step in range(version, current):
        document = {**upgrades[step](document), VERSION: step + 1}
    return document
