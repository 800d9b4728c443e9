"""A YAML text as plain values, each with its line: what a manifest may be written in, and nothing else of YAML.

YAML 1.2, so that `2:4`, `50%`, `on` and `no` are texts. A date is a text, too. Refused, with the line: a key written
twice or that is no single word, a value that is not what its tag says, control characters, and what only grows a text
into something that nobody meant: nesting without end, aliases of aliases, numbers that no machine counts to.
"""

import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from orchestrator.errors import BadManifest

Path = tuple[str | int, ...]
_TAG = "tag:yaml.org,2002:"
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_MOST_DEEP = 30
_MOST_VALUES = 20_000
_LARGEST = 2.0**63


@dataclass
class Document:
    """`lines` are the 1-based lines of every key and list item by its path."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)

    def line_of(self, path: Path) -> int:
        """The line of the nearest enclosing value that the text holds."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_document(text: str) -> Document:
    """The values of a YAML text.

    Raises:
        BadManifest: the text is not YAML, or holds what the module's first lines say; the message names the line.
    """
    root = compose(text)
    document = Document()
    if root is not None:
        document.value = _Reader(document.lines).value(root, ())
    return document


def compose(text: str) -> Node | None:
    """The nodes of a YAML text, with where each begins and ends; None where it holds nothing.

    Raises:
        BadManifest: as `read_document` does for the text as a whole.
    """
    try:
        root: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as broken:
        line = broken.problem_mark.line + 1 if broken.problem_mark else 1
        raise _refusal(line, f"not valid YAML: {broken.problem}", "check the indentation") from broken
    except ReaderError as broken:
        line = text.count("\n", 0, broken.position) + 1
        raise _refusal(line, "a control character", "write it as text, or leave it out") from broken
    except RecursionError as endless:
        raise _refusal(1, "lists or mappings in each other without end", "write it flatter") from endless
    except YAMLError as broken:
        raise _refusal(1, f"not valid YAML: {broken}", "see docs/manifests.md") from broken
    return root


@dataclass
class _Reader:
    """Makes values of nodes, and counts them: an alias makes its values again."""

    lines: dict[Path, int]
    count: int = 0
    yaml: YAML = field(default_factory=lambda: YAML(typ="safe", pure=True))

    def value(self, node: Node, path: Path) -> Any:
        self.lines.setdefault(path, _line(node))
        self.count += 1
        if len(path) > _MOST_DEEP or self.count > _MOST_VALUES:
            raise _refusal(_line(node), "too many values, or too deep in each other", "leave aliases (*name) out")
        if isinstance(node, MappingNode):
            return {key: self.value(value, (*path, key)) for key, value in self._items(node, path)}
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)  # noqa: S101  there are three kinds of nodes
        return self._scalar(node)

    def _items(self, node: MappingNode, path: Path) -> Iterator[tuple[str, Node]]:
        seen = set()
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise _refusal(_line(key), "a key is a list or a mapping", "a key is one word")
            if key.value in seen:
                raise _refusal(_line(key), f"{key.value!r} is written twice", "remove one")
            seen.add(key.value)
            self.lines[(*path, key.value)] = _line(key)
            yield _text(key), value

    def _scalar(self, node: ScalarNode) -> str | int | float | bool | None:
        if node.tag == f"{_TAG}null":
            return None
        if node.tag not in (*_NUMBERS, f"{_TAG}bool"):
            return _text(node)
        try:
            value: int | float | bool = self.yaml.constructor.construct_object(node)
        except (ValueError, KeyError, IndexError, YAMLError) as wrong:
            kind = node.tag.removeprefix(_TAG)
            raise _refusal(
                _line(node), f"{node.value[:20]!r} is no {kind}", "write the value without a tag (!!)"
            ) from wrong
        if not math.isfinite(value) or abs(value) >= _LARGEST:
            raise _refusal(_line(node), f"{node.value[:20]} is no number that can be counted to", "write a smaller one")
        return value


def _text(node: ScalarNode) -> str:
    text = str(node.value)
    if any(unicodedata.category(one) in ("Cc", "Cs") and one not in "\n\t" for one in text):
        raise _refusal(_line(node), "a control character", "write it as text, or leave it out")
    return text


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _refusal(line: int, problem: str, hint: str) -> BadManifest:
    return BadManifest(f"line {line}: {problem}", hint=hint)
