"""A YAML text as plain values, each with its line: what a manifest may be written in, and nothing else of YAML.

YAML 1.2, so that `2:4`, `50%`, `on` and `no` are texts. A date is a text, too. Refused, with the line: a key written
twice or that is no single word, an empty list, which asks for nothing, a tag that says other than the value does by
itself, merge keys, control characters, and what only grows a text into something that nobody meant: nesting without
end, aliases of aliases, numbers that no machine counts to. What is refused for its size is counted while it is read,
and not read to its end.
"""

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError

from harness.contract import quoted
from orchestrator.errors import BadManifest

Path = tuple[str | int, ...]
MOST_BYTES = 2**18
MOST_VALUES = 5_000
MOST_DEEP = 30
LONGEST_CHARACTERS = 4096
"""Of one text: that of the longest path."""
_TAG = "tag:yaml.org,2002:"
_STRUCTURES = (f"{_TAG}map", f"{_TAG}seq")
_TEXT = f"{_TAG}str"
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_LARGEST = 2.0**63
_TURNS_TEXT_AROUND = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
_TOO_DEEP = "lists or mappings in each other without end"
_TOO_MANY = f"more than {MOST_VALUES} values"
_WRITE_LESS = "leave aliases (*name) out, or write several manifests"


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


def read_text(path: FilePath) -> str:
    """The text of a file, whatever lies there.

    Raises:
        BadManifest: it is no regular file, cannot be read, is not UTF-8, or is too long; the message names `path`, and
            where the file was read the line.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadManifest(f"{path} is no file", hint="give the path of a YAML manifest")
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as unreadable:
        raise BadManifest(f"cannot read {path}: {unreadable}", hint="give the path of a YAML manifest") from unreadable
    try:
        if len(content) > MOST_BYTES:
            raise _refusal(content.count(b"\n") + 1, f"more than {MOST_BYTES // 2**10} KiB", "write several manifests")
        return content.decode("utf-8")
    except UnicodeDecodeError as other:
        line = content.count(b"\n", 0, other.start) + 1
        raise BadManifest(f"{path}, line {line}: not UTF-8", hint="save the file as UTF-8") from other
    except BadManifest as large:
        raise BadManifest(f"{path}, {large.message}", hint=large.hint) from large


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
    yaml = _yaml()
    try:
        root: Node | None = yaml.compose(text)
    except MaxDepthExceededError as deep:
        raise _refusal(_marked(deep), _TOO_DEEP, "write it flatter") from deep
    except MarkedYAMLError as broken:
        raise _refusal(_marked(broken), f"not valid YAML: {broken.problem}", "check the indentation") from broken
    except ReaderError as broken:
        line = text.count("\n", 0, broken.position) + 1
        raise _refusal(line, "a control character", "write it as text, or leave it out") from broken
    except BadManifest:
        raise
    except Exception as broken:  # whatever the parser trips over, this text made it
        line = int(yaml.reader.line) + 1
        raise _refusal(line, f"not valid YAML: {broken}", "see docs/manifests.md") from broken
    if yaml.version not in (None, (1, 2)):
        raise _refusal(1, "another YAML than 1.2", "leave the %YAML line out")
    return root


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MOST_DEEP
    yaml.Composer = _Counting
    return yaml


class _Counting(Composer):
    """Ends the work at the first value too many."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False
        self._count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._count += 1
        if self._count > 2 * MOST_VALUES:  # keys are nodes, too
            raise _refusal(int(self.parser.peek_event().start_mark.line) + 1, _TOO_MANY, _WRITE_LESS)
        return super().compose_node(parent, index)


@dataclass
class _Reader:
    """Makes values of nodes, and counts them: an alias makes its values again."""

    lines: dict[Path, int]
    count: int = 0
    yaml: YAML = field(default_factory=_yaml)

    def value(self, node: Node, path: Path) -> Any:
        self.lines.setdefault(path, _line(node))
        self.count += 1
        if len(path) > MOST_DEEP:
            raise _refusal(_line(node), _TOO_DEEP, "leave aliases (*name) out")
        if self.count > MOST_VALUES:
            raise _refusal(_line(node), _TOO_MANY, _WRITE_LESS)
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if node.tag not in _STRUCTURES:
            raise _tagged(node)
        if isinstance(node, MappingNode):
            return {key: self.value(value, (*path, key)) for key, value in self._items(node, path)}
        if not node.value:
            where = ".".join(map(str, path)) or "manifest"
            raise _refusal(_line(node), f"{where}: an empty list asks for nothing", "fill it, or leave it out")
        return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]

    def _items(self, node: MappingNode, path: Path) -> Iterator[tuple[str, Node]]:
        seen = set()
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise _refusal(_line(key), "a key is a list or a mapping", "a key is one word")
            name = _text(key)
            if key.tag == f"{_TAG}merge":
                raise _refusal(_line(key), "a merge key (<<)", "write the values out")
            if name in seen:
                raise _refusal(_line(key), f"{quoted(name)} is written twice", "remove one")
            seen.add(name)
            self.lines[(*path, name)] = _line(key)
            yield name, value

    def _scalar(self, node: ScalarNode) -> str | int | float | bool | None:
        by_itself = self.yaml.resolver.resolve(ScalarNode, node.value, (node.style is None, False))
        if node.tag not in (_TEXT, str(by_itself)):
            raise _tagged(node)
        if node.tag == f"{_TAG}null":
            return None
        if node.tag not in (*_NUMBERS, f"{_TAG}bool"):
            return _text(node)
        try:
            value: int | float | bool = self.yaml.constructor.construct_object(node)
        except Exception as wrong:  # the parser's own way to fail at what it took for a number
            kind = node.tag.removeprefix(_TAG)
            raise _refusal(_line(node), f"{quoted(node.value)} is no {kind}", "put it into quotes") from wrong
        if not -_LARGEST < value < _LARGEST:  # nor NaN
            found = quoted(node.value)
            raise _refusal(_line(node), f"{found} is no number that can be counted to", "write a smaller one")
        return value


def _text(node: ScalarNode) -> str:
    text = str(node.value)
    if len(text) > LONGEST_CHARACTERS:
        problem = f"a text of {len(text)} characters: {quoted(text)}"
        raise _refusal(_line(node), problem, f"{LONGEST_CHARACTERS} are the most")
    if has_control(text):
        raise _refusal(_line(node), "a control character", "write it as text, or leave it out")
    return text


def has_control(text: str) -> bool:
    """Whether a terminal or a page would do something else with it than show it, line by line."""
    return any(
        unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(one) in _TURNS_TEXT_AROUND
        for one in text
        if one not in "\n\t"
    )


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _marked(problem: MarkedYAMLError) -> int:
    mark = problem.problem_mark or problem.context_mark
    return int(mark.line) + 1 if mark else 1


def _tagged(node: Node) -> BadManifest:
    tag = str(node.tag).replace(_TAG, "!!")
    return _refusal(_line(node), f"the tag {quoted(tag)} is no part of a manifest", "write the value without a tag")


def _refusal(line: int, problem: str, hint: str) -> BadManifest:
    return BadManifest(f"line {line}: {problem}", hint=hint)
