"""Changes single values in a YAML text and leaves every other byte as it is: comments, order, quotes, line ends."""

from collections.abc import Mapping
from typing import Any

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from orchestrator.errors import BadManifest
from orchestrator.manifest.document import Path, compose, read_document

_QUOTES = ("'", '"')


def replace_values(text: str, values: Mapping[Path, str]) -> str:
    """`text` with the string at each path of `values` replaced, written with the quotes that it had.

    The new values hold nothing that YAML would read as something else: letters, digits and `:/@._-`, no space.

    Raises:
        BadManifest: a value is written in a form that cannot be edited in place (an alias, a folded text).
    """
    wanted = dict(values)
    spans = []
    for path, node in _scalars(compose(text), ()):
        if path in wanted:
            spans.append((_span(text, path, node), wanted.pop(path)))
    if wanted:
        raise BadManifest(f"{_name(next(iter(wanted)))} is not in the manifest", hint="write the value out there")
    edited = text
    for (start, end), value in sorted(spans, reverse=True):
        edited = edited[:start] + value + edited[end:]
    _check(text, edited, values)
    return edited


def _scalars(node: Node | None, path: Path) -> list[tuple[Path, ScalarNode]]:
    if isinstance(node, ScalarNode):
        return [(path, node)]
    if isinstance(node, MappingNode):
        return [found for key, value in node.value for found in _scalars(value, (*path, key.value))]
    if isinstance(node, SequenceNode):
        return [found for index, item in enumerate(node.value) for found in _scalars(item, (*path, index))]
    return []


def _span(text: str, path: Path, node: ScalarNode) -> tuple[int, int]:
    """Where the value stands, without its quotes."""
    start, end = node.start_mark.index, node.end_mark.index
    if text[start:end] == node.value:
        return start, end
    if text[start:end] in (quote + node.value + quote for quote in _QUOTES):
        return start + 1, end - 1
    line = node.start_mark.line + 1
    raise BadManifest(
        f"line {line}: {_name(path)} is not written as one plain or quoted text", hint="write it in one line"
    )


def _check(text: str, edited: str, values: Mapping[Path, str]) -> None:
    """Nothing but the wanted values may have changed: an alias elsewhere could carry a change along."""
    expected = read_document(text).value
    for path, value in values.items():
        _set(expected, path, value)
    if read_document(edited).value != expected:
        raise BadManifest(
            "a value that is to change is used in several places of the manifest", hint="write each of them out"
        )


def _set(document: Any, path: Path, value: str) -> None:
    for part in path[:-1]:
        document = document[part]
    document[path[-1]] = value


def _name(path: Path) -> str:
    return ".".join(str(part) for part in path)
