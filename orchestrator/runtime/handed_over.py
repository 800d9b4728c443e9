"""The secrets that a worker is given, taken out of what it prints before that is kept or shown.

Who holds a secret and a network can tell it to anybody: this is against a library that prints its own settings, and
against logs that travel further than their writer thought.
"""

import json
import os
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, urlsplit

from orchestrator.images.package_sources import HUB_TOKENS, PackageSources
from orchestrator.runtime.reach import Reach

MARK = b"[withheld]"
_LEAST_CHARACTERS = 4
"""Of a secret that is looked for: a shorter one stands in many texts that have nothing to do with it."""


def handed_over(reach: Reach) -> frozenset[str]:
    """Those that this reach gives: the hub's tokens, and passwords in the addresses of indexes and proxies."""
    found: set[str] = set()
    if reach is not Reach.NOTHING:
        found.update(*map(_credentials, PackageSources.configured().addresses))
    if reach is Reach.HUB:
        found.update(os.environ[name] for name in HUB_TOKENS if name in os.environ)
    return frozenset(secret for secret in found if len(secret) >= _LEAST_CHARACTERS)


def _credentials(address: str) -> Iterator[str]:
    """The password of an address, or the name where that stands alone, as it is written and as it is meant."""
    parts = urlsplit(address)
    secret = parts.password or parts.username or ""
    yield from (secret, unquote(secret))


class Redaction:
    """Puts a mark in the place of each of the `secrets`."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in (secret, _in_json(secret), _in_json(secret, ascii_only=False))}
        self._secrets = sorted((form.encode() for form in forms), key=len, reverse=True)
        self._held = b""

    def whole(self, text: bytes) -> bytes:
        """A text that begins and ends here."""
        for secret in self._secrets:
            text = text.replace(secret, MARK)
        return text

    def feed(self, data: bytes) -> bytes:
        """The next part of a text that is cut anywhere; what may be the beginning of a secret waits for the rest."""
        text = self.whole(self._held + data)
        kept = max((_overlap(text, secret) for secret in self._secrets), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def end(self) -> bytes:
        """What was still waiting when the text ended."""
        held, self._held = self._held, b""
        return held


def _in_json(secret: str, *, ascii_only: bool = True) -> str:
    return json.dumps(secret, ensure_ascii=ascii_only)[1:-1]


def _overlap(text: bytes, secret: bytes) -> int:
    """How many bytes at the end of the text are the beginning of the secret."""
    longest = min(len(text), len(secret) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(secret[:length])), 0)
