"""A manifest and the files that it includes, as one document whose every value knows its file and line.

Mappings are merged key by key. The lists that make the matrix are joined, what has one name being one entry; all other
values, lists too, are the including file's. Of an included file everything is taken but its `name`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from harness.contract import quoted
from orchestrator.errors import BadManifest
from orchestrator.manifest.document import MOST_VALUES, Document, Path, read_document, read_text

INCLUDE = "include"
MOST_INCLUDED = 100
"""Files, each as often as one includes it."""
DEEPEST_INCLUDE = 8
_NOT_TAKEN = "name"
_VERSION = "schema_version"
_HINT = "see `include` in docs/manifests.md"


@dataclass(frozen=True)
class Origin:
    """Where a value is written: its `path` within `file`, and the 1-based line."""

    file: FilePath
    line: int
    path: Path


@dataclass(frozen=True)
class Composed:
    """`origins` has every value and key of `value`, by its path."""

    value: Any
    origins: Mapping[Path, Origin]

    def origin_of(self, path: Path) -> Origin:
        """That of the nearest enclosing value that is written anywhere."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]


def compose_manifest(path: FilePath) -> Composed:
    """Read `path` and all that it includes.

    Raises:
        BadManifest: a file cannot be read or is no YAML, or files include each other without end; the message names the
            file and the line.
    """
    merged = _Composer().compose(path, ())
    origins: dict[Path, Origin] = {}
    return Composed(_plain(merged, (), origins), origins)


@dataclass
class _Node:
    """A value with where it is written; of mappings and lists `value` holds nodes."""

    value: Any
    origin: Origin


@dataclass
class _Composer:
    """`read` has every file's document by its resolved path; `files` and `values` count each as often as it is used."""

    files: int = 0
    values: int = 0
    read: dict[FilePath, Document] = field(default_factory=dict)

    def compose(self, path: FilePath, within: tuple[FilePath, ...], by: Origin | None = None) -> _Node:
        """`within` are the files that include this one, outermost first, resolved; `by` is where the last one does."""
        document = self._document(path, by)
        resolved = path.resolve()
        if by is not None and resolved in within:
            raise _refusal(by, f"{path} includes this file again", "take one of the two includes out")
        own = _tree(document.value, (), document, path)
        if not isinstance(own.value, dict) or INCLUDE not in own.value:
            return own
        merged: _Node | None = None
        for one in _texts(own.value.pop(INCLUDE)):
            below = self._included(path.parent / one.value, (*within, resolved), one.origin)
            merged = below if merged is None else _merge(merged, below, ())
        return own if merged is None else _merge(merged, own, ())

    def _included(self, path: FilePath, within: tuple[FilePath, ...], by: Origin) -> _Node:
        self.files += 1
        if self.files > MOST_INCLUDED or len(within) > DEEPEST_INCLUDE:
            most = f"{MOST_INCLUDED} in all and {DEEPEST_INCLUDE} within each other are the most"
            raise _refusal(by, f"too many files are included: {most}", "include fewer files")
        found = self.compose(path, within, by)
        if not isinstance(found.value, dict):
            raise _refusal(found.origin, "an included file holds fields of a manifest, and this one none", _HINT)
        found.value.pop(_NOT_TAKEN, None)
        version = found.value.pop(_VERSION, None)
        if version is not None and version.value != 1:
            raise _refusal(version.origin, f"{_VERSION} {quoted(str(version.value))} is not known", "it is 1")
        return found

    def _document(self, path: FilePath, by: Origin | None) -> Document:
        """Raises BadManifest; where the file cannot be read at all, at the line that includes it."""
        try:
            text = read_text(path)
        except BadManifest as unreadable:
            if by is None:
                raise
            raise _refusal(by, unreadable.message, "a path is taken from the including file's folder") from unreadable
        resolved = path.resolve()
        if resolved not in self.read:
            try:
                self.read[resolved] = read_document(text)
            except BadManifest as broken:
                raise BadManifest(f"{path}, {broken.message}", hint=broken.hint) from broken
        self.values += len(self.read[resolved].lines)
        if by is not None and self.values > MOST_VALUES:
            raise _refusal(by, f"with {path} there are more than {MOST_VALUES} values", "include fewer files")
        return self.read[resolved]


def _texts(named: _Node) -> Iterator[_Node]:
    nodes = named.value if isinstance(named.value, list) else [named]
    for one in nodes:
        if not isinstance(one.value, str) or not one.value:
            raise _refusal(one.origin, f"{INCLUDE} is a list of files, and this is none", "write their paths")
        yield one


def _tree(value: Any, path: Path, document: Document, file: FilePath) -> _Node:
    if isinstance(value, dict):
        value = {key: _tree(inner, (*path, key), document, file) for key, inner in value.items()}
    elif isinstance(value, list):
        value = [_tree(inner, (*path, index), document, file) for index, inner in enumerate(value)]
    return _Node(value, Origin(file, document.line_of(path), path))


def _plain(node: _Node, path: Path, origins: dict[Path, Origin]) -> Any:
    origins[path] = node.origin
    if isinstance(node.value, dict):
        return {key: _plain(inner, (*path, key), origins) for key, inner in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(inner, (*path, index), origins) for index, inner in enumerate(node.value)]
    return node.value


def _merge(below: _Node, above: _Node, path: Path) -> _Node:
    if isinstance(below.value, dict) and isinstance(above.value, dict):
        merged = dict(below.value)
        for key, value in above.value.items():
            merged[key] = _merge(merged[key], value, (*path, key)) if key in merged else value
        return _Node(merged, above.origin)
    identity = _JOINED.get(path)
    if identity is not None and below.value is not None and above.value is not None:
        return _join(_as_list(below), _as_list(above), identity, path)
    return above


def _join(below: _Node, above: _Node, identity: Callable[[Any], object], path: Path) -> _Node:
    """An entry that stands twice within `above` is left for whoever refuses it."""
    if not (isinstance(below.value, list) and isinstance(above.value, list)):
        return above
    places = {identity(_plain(one, (), {})): index for index, one in enumerate(below.value)}
    entries = list(below.value)
    for one in above.value:
        place = places.pop(identity(_plain(one, (), {})), None)
        if place is None:
            entries.append(one)
        else:
            entries[place] = _merge(entries[place], one, (*path, 0))
    return _Node(entries, above.origin)


def _as_list(node: _Node) -> _Node:
    return _Node([node], node.origin) if isinstance(node.value, str) else node


def _name_of(entry: Any) -> object:
    return str(entry.get("name")) if isinstance(entry, dict) else str(entry)


def _compression_of(entry: Any) -> object:
    if not isinstance(entry, dict) or entry.get("name") is not None:
        return _name_of(entry)
    return str(entry.get("method")), str(entry.get("setting"))


_JOINED: dict[Path, Callable[[Any], object]] = {
    ("models",): _name_of,
    ("compress",): _compression_of,
    ("evaluate", "tasks"): str,
    ("evaluate", "engine"): str,
    ("benchmark", "backends"): str,
    ("exclude",): str,
}
"""The lists that are joined, and what makes two entries one."""


def _refusal(at: Origin, problem: str, hint: str) -> BadManifest:
    return BadManifest(f"{at.file}, line {at.line}: {problem}", hint=hint)
