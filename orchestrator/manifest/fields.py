"""What a single value of a manifest may be: names, lines and words, and lists of them."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator

from harness.contract import quoted
from orchestrator.manifest.document import has_control

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_WORD_CHARACTERS = 100


def _check_name(name: str) -> str:
    """Names are parts of stages' names and of paths."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{quoted(name)} is no name: it takes up to 80 letters, digits, '.', '_' and '-', no '/', no space"
        )
    return name


def _check_line(text: str) -> str:
    if not text or text != text.strip() or "\n" in text or "\t" in text or has_control(text):
        raise ValueError(f"{quoted(text)} is not one line of text without spaces around it")
    return text


def _check_word(text: str) -> str:
    if len(text) > _WORD_CHARACTERS:
        raise ValueError(f"{quoted(text)} has {len(text)} characters, and {_WORD_CHARACTERS} are the most")
    return _check_line(text)


def check_different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    seen = set()
    for value in values:
        identity = value.model_dump_json() if isinstance(value, BaseModel) else value
        if identity in seen:
            raise ValueError(f"{quoted(str(identity))} stands there twice; remove one")
        seen.add(identity)
    return values


def one_or_more(kind: type) -> BeforeValidator:
    """A single value stands for a list of one."""
    return BeforeValidator(as_tuple, json_schema_input_type=kind | list[kind])  # type: ignore[valid-type]


def joined_by(separator: str) -> BeforeValidator:
    """A list of texts stands for the form of the command line, with a separator between them."""
    return BeforeValidator(lambda value: joined(value, separator), json_schema_input_type=str | list[str])


Name = Annotated[str, AfterValidator(_check_name)]
Line = Annotated[str, AfterValidator(_check_line)]
Word = Annotated[str, AfterValidator(_check_word)]
Different = AfterValidator(check_different)


def joined(value: object, separator: str) -> object:
    """A list of texts in the form of the command line, with a separator between them."""
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return separator.join(value)
    return value


def as_tuple(value: object) -> object:
    """A single name or number stands for a list of one."""
    if isinstance(value, str | int):
        return (value,)
    return tuple(value) if isinstance(value, list) else value
