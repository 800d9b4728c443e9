"""The text `hub:org/name@revision` of a manifest, in its parts."""

import re
from dataclasses import dataclass

_FORM = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@(\S+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSource:
    """`revision` as written: a commit, a branch, a tag, or None where none stands there."""

    repository: str
    revision: str | None

    @property
    def commit(self) -> str | None:
        """The revision where it is a whole commit, which never moves."""
        return self.revision if self.revision is not None and _COMMIT.fullmatch(self.revision) else None

    def at(self, commit: str) -> str:
        """The source text that names this commit."""
        return f"hub:{self.repository}@{commit}"


def hub_source(text: str) -> HubSource | None:
    """Read a source of the hub; None for any other source, and for what is no repository's name."""
    match = _FORM.fullmatch(text)
    return None if match is None else HubSource(match[1], match[2])
