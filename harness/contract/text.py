"""Text that somebody else wrote, before it reaches a terminal, a report or a log: which characters may not be in it.

These are the ones that make a program do something instead of showing them: C0 and C1, DEL, the separators of lines and
paragraphs, what turns the direction of the text around it, and halves of surrogate pairs, which are no text at all.
"""

import re
from collections.abc import Iterator
from typing import Any

_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", re.UNICODE
)
_BREAK = re.compile("\r\n|[\n\r\t\v\f\x85\u2028\u2029]")
_NO_TEXT = re.compile(f"(?![\n\t]){_CONTROL.pattern}")
"""Line breaks and tabs are text; what shows a text in one line puts spaces in their place."""


def unshowable(name: str) -> str | None:
    """The first control character of a name, in words; None where there is none."""
    found = _CONTROL.search(name)
    return None if found is None else f"the control character U+{ord(found[0]):04X}"


def unshowable_in(document: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """The fields of a JSON document that hold a control character, or have one in their name, with it in words."""
    if isinstance(document, str):
        if found := _NO_TEXT.search(document):
            yield ".".join(map(escaped, place)), f"the control character U+{ord(found[0]):04X}"
    elif isinstance(document, dict):
        for name, value in document.items():
            if found_in_name := unshowable(str(name)):
                yield ".".join(map(escaped, (*place, str(name)))), found_in_name
            yield from unshowable_in(value, (*place, str(name)))
    elif isinstance(document, list | tuple):
        for number, value in enumerate(document):
            yield from unshowable_in(value, (*place, str(number)))


def showable(document: Any) -> Any:
    """A JSON document with every text in it as `one_line` makes it."""
    if isinstance(document, str):
        return one_line(document)
    if isinstance(document, dict):
        return {one_line(str(name)): showable(value) for name, value in document.items()}
    return [showable(value) for value in document] if isinstance(document, list) else document


def escaped(text: str) -> str:
    """The text with the number of each control character in its place, so that it can be named in a message."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str, most_characters: int | None = None) -> str:
    """The text in one line: spaces for line breaks, nothing for other control characters, and an end to its length."""
    text = _CONTROL.sub("", _BREAK.sub(" ", text))
    if most_characters is not None and len(text) > most_characters:
        left_out = len(text) - most_characters
        return f"{text[:most_characters]}… ({left_out} more characters)"
    return text


def plain_lines(text: str) -> str:
    """The text in its lines, with a mark in place of every other control character."""
    return _NO_TEXT.sub("�", text.replace("\r\n", "\n").replace("\r", "\n"))
