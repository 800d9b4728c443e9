"""docs/reference/commands.md: every command with its arguments and options, from what Typer knows of them."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from orchestrator.cli.app import app

PROGRAM = "orchestrator"
_WORD = re.compile(r"\w+")
_HEAD = """# Commands

Written from the program by `make pages`. `orchestrator COMMAND --help` shows the same, and
[exit statuses and errors](../errors.md) what a command ends with.
"""


def commands_page() -> str:
    """The whole page, as Markdown."""
    found = [(" ".join(words), command) for words, command in _commands(typer.main.get_command(app), ())]
    contents = ["| command | does |", "| --- | --- |"]
    contents += [
        f"| [`{name}`](#{PROGRAM}-{name.replace(' ', '-')}) | {_cell(_sentence(command.help))} |"
        for name, command in found
    ]
    return "\n".join([_HEAD, *contents, "", *(_section(name, command) for name, command in found)])


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that call it, in the program's order."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
        return
    for name, one in inner.items():
        yield from _commands(one, (*words, name))


def _section(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    context = typer.Context(command)
    shown = " ".join(["[OPTIONS]" if options else "", *(_placeholder(one) for one in arguments)]).strip()
    lines = [f"## `{PROGRAM} {name}`", "", f"    {PROGRAM} {name} {shown}".rstrip(), "", _prose(command.help)]
    if arguments or options:
        lines += ["", "| argument or option | meaning | default |", "| --- | --- | --- |"]
        lines += [_row(_placeholder(one), one) for one in arguments]
        lines += [_row(_spelling(one, context), one) for one in options]
    return "\n".join([*lines, ""])


def _placeholder(argument: Any) -> str:
    """As manuals write it: `RUN`, `[RUN]` where it may be left out, `RUN…` where there may be several."""
    several = "…" if argument.nargs == -1 else ""
    word = f"{argument.name.upper().rstrip('_')}{several}"
    return word if argument.required else f"[{word}]"


def _spelling(option: Any, context: typer.Context) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    kind = option.display_type(context)
    return f"{names} {kind.strip('<>') if '|' in kind else _WORD.findall(kind)[-1].upper()}"


def _row(spelling: str, parameter: Any) -> str:
    help_text = getattr(parameter, "help", None) or ""
    variable = f" Else the variable `{parameter.envvar}`." if parameter.envvar else ""
    return f"| `{_cell(spelling)}` | {_cell(help_text + variable)} | {_default(parameter)} |"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default() if callable(parameter.default) else parameter.default
    if parameter.param_type_name == "option" and parameter.is_flag:
        return ""
    return f"`{_cell(_value(value))}`" if value not in (None, "", ()) else ""


def _value(value: Any) -> str:
    return str(getattr(value, "value", value))


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", r"\|")


def _sentence(help_text: str | None) -> str:
    """The first sentence, which says what the command is for."""
    first = (help_text or "").split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[.])\s+(?=[A-Z`])", first)[0]


def _prose(help_text: str | None) -> str:
    """Paragraphs, where an example is set as one."""
    paragraphs = re.split(r"\n\s*\n", (help_text or "").strip())
    return "\n\n".join(
        re.sub(r"^Example: (.*)$", r"Example: `\1`", " ".join(paragraph.split())) for paragraph in paragraphs
    )
