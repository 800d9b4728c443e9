"""What is taken out of texts before others read them: absolute paths, secrets, names of this machine and its user."""

import getpass
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

WITHHELD = "withheld"
_MARK = "…"
_PATH = re.compile(r"(?<![\w./…~%)\]-])(?:file://|~)?/(?!/)(?!(?:in|out)(?:/|\b))[\w.+@%~-]{2,}(?:/[\w.+@%~=,-]*)*")
"""An absolute path of a host. `/in` and `/out` are where every worker finds its inputs and leaves its output."""
_SECRET = re.compile(
    r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abprs]-|pypi-|AKIA)[A-Za-z0-9_-]{12,}"
    r"|\b(?:Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"
    r"|(?i:\b(?:token|password|passwd|secret|api_?key)\b\s*[=:]\s*)[^\s,;\"']{4,}"
)
_LEAST_CHARACTERS = 3
"""Of a name that is looked for in texts."""


class Withholding:
    """Texts as others may read them. `counts` says how often something of a kind was taken out.

    `hosts` and `users` are the names to look for, beside those of this machine and of whoever runs this; none are
    looked for where `with_host`.
    """

    def __init__(self, hosts: Iterable[str] = (), users: Iterable[str] = (), *, with_host: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self.with_host = with_host
        names = {*hosts, socket.gethostname(), *users, *_user()}
        wanted = sorted((re.escape(name) for name in names if len(name) >= _LEAST_CHARACTERS), key=len, reverse=True)
        self._names = re.compile(rf"(?<![\w-])(?:{'|'.join(wanted)})(?![\w-])") if wanted and not with_host else None

    def text(self, text: str) -> str:
        """The text with paths shortened to their last part, and a mark in place of secrets and names.

        A text without a space is no sentence: names of models and methods in it stay, whatever the machine is called.
        """
        text = _SECRET.sub(self._counted("secrets", lambda _: WITHHELD), text)
        text = _PATH.sub(
            self._counted("paths", lambda found: f"{_MARK}/{found[0].rstrip('/').rpartition('/')[2]}"), text
        )
        if self._names is not None and " " in text:
            text = self._names.sub(self._counted("names", lambda _: WITHHELD), text)
        return text

    def document(self, document: Any) -> Any:
        """A JSON document with each text in it so."""
        if isinstance(document, str):
            return self.text(document)
        if isinstance(document, dict):
            return {name: self.document(value) for name, value in document.items()}
        return [self.document(one) for one in document] if isinstance(document, list) else document

    def host(self, name: str) -> str:
        """The name of a machine, in a field that holds nothing else."""
        if self.with_host:
            return name
        self.counts["names"] += 1
        return WITHHELD

    def _counted(self, kind: str, replace: Callable[[re.Match[str]], str]) -> Callable[[re.Match[str]], str]:
        def counted(found: re.Match[str]) -> str:
            self.counts[kind] += 1
            return replace(found)

        return counted


def _user() -> tuple[str, ...]:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        return ()
    return () if name == "root" else (name,)
