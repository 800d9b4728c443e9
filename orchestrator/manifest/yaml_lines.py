"""Loads YAML together with the line on which each value stands, so that an error can point at it."""

from typing import Any

import yaml

from orchestrator.errors import BadManifest

Path = tuple[str | int, ...]


class _NoDuplicates(yaml.SafeLoader):
    """A safe loader for which a key written twice is an error, not a silent override."""


def _mapping(loader: _NoDuplicates, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in mapping:
            raise BadManifest(f"line {key_node.start_mark.line + 1}: {key!r} is written twice", hint="remove one")
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_NoDuplicates.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(text: str) -> tuple[Any, dict[Path, int]]:
    """The document, and the 1-based line of every key and list item by its path.

    Raises:
        BadManifest: the text is not YAML, or a key stands twice; the message names the line.
    """
    try:
        root = yaml.compose(text, Loader=_NoDuplicates)
        document = yaml.load(text, Loader=_NoDuplicates)  # noqa: S506  derived from SafeLoader
    except yaml.MarkedYAMLError as broken:
        line = broken.problem_mark.line + 1 if broken.problem_mark else 1
        raise BadManifest(f"line {line}: not valid YAML: {broken.problem}", hint="check the indentation") from broken
    lines: dict[Path, int] = {}
    if root is not None:
        _walk(root, (), lines)
    return document, lines


def _walk(node: yaml.Node, path: Path, lines: dict[Path, int]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[(*path, key.value)] = key.start_mark.line + 1
            _walk(value, (*path, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), lines)


def line_of(path: Path, lines: dict[Path, int]) -> int:
    """The line of the nearest enclosing value that the text holds."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)
