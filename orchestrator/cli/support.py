"""`support`: which backend serves which checkpoint where, each answer with its reason and its source."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from harness.contract import CheckpointFormat, DeviceKind, unknown
from orchestrator.cli import options
from orchestrator.errors import BadManifest
from orchestrator.plan import resolve_backend
from orchestrator.plan.cells import support_page
from orchestrator.plan.support import Answer, SupportRow, SupportTable, support_of

LOG_WIDTH = 80
_STYLES = {Answer.YES: "green", Answer.AS_DENSE: "yellow", Answer.NO: "red"}
_INDENT = (0, 0, 0, 14)
_FLAGS: dict[str, dict[bool | None, str]] = {
    "symmetric": {True: "symmetric", False: "asymmetric"},
    "activation_order": {True: "groups in the order of activations", False: "groups in their order"},
    "zeros": {True: "with zeros", False: "without zeros"},
}


def support(
    backend: Annotated[str, typer.Option("--backend", "-b", help="Only this deployment library.")] = "",
    checkpoint_format: Annotated[
        str, typer.Option("--format", "-f", help="Only rows about this checkpoint format, by its name or its end.")
    ] = "",
    device: Annotated[str, typer.Option("--device", "-d", help="Only rows about cpu, or about cuda.")] = "",
    methods: Annotated[
        bool, typer.Option("--methods", help="By method and setting instead, as Markdown: what docs/support.md is.")
    ] = False,
    more_images: options.Images = None,
    as_json: options.Json = False,
) -> None:
    """Show what each backend serves. The least favourable row that fits a checkpoint counts; `otherwise` comes last."""
    catalog = options.catalog(more_images)
    if methods:
        typer.echo(support_page(catalog), nl=False)
        return
    names = [resolve_backend(backend, catalog)[1].name] if backend else list(catalog.backends)
    wanted, kind = _format(checkpoint_format), _device(device)
    tables = [_narrowed(support_of(*catalog.backends[name]), wanted, kind) for name in names]
    if as_json:
        typer.echo(json.dumps({"backends": [_document(table) for table in tables]}, indent=1, ensure_ascii=False))
        return
    console = Console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    for table in tables:
        _print(console, table)


def _format(text: str) -> CheckpointFormat | None:
    if not text:
        return None
    known = {name: one for one in CheckpointFormat for name in (one.value, one.value.rpartition("/")[2])}
    if text not in known:
        raise BadManifest(
            unknown("checkpoint format", text, known),
            hint=f"use one of: {', '.join(one.value for one in CheckpointFormat)}",
        )
    return known[text]


def _device(text: str) -> DeviceKind | None:
    if not text:
        return None
    try:
        return DeviceKind(text)
    except ValueError:
        raise BadManifest(unknown("device kind", text, tuple(DeviceKind)), hint="use cpu or cuda") from None


def _narrowed(table: SupportTable, wanted: CheckpointFormat | None, kind: DeviceKind | None) -> SupportTable:
    """The rows that can be about a format and a device kind."""
    on_kind = kind is None or kind in table.versions
    rows = tuple(
        row
        for row in table.rows
        if on_kind
        and (wanted is None or not row.formats or wanted in row.formats)
        and (kind is None or not row.devices or kind in row.devices)
    )
    versions = {one: version for one, version in table.versions.items() if kind in (None, one)}
    return SupportTable.model_construct(backend=table.backend, versions=versions, rows=rows)


def _document(table: SupportTable) -> dict[str, Any]:
    """The whole table, with the devices of each row written out."""
    rows = [
        row.model_dump(mode="json") | {"devices": [kind.value for kind in row.devices or table.devices]}
        for row in table.rows
    ]
    return {
        "backend": table.backend,
        "versions": {kind.value: text for kind, text in table.versions.items()},
        "rows": rows,
    }


def _print(console: Console, table: SupportTable) -> None:
    where = "; ".join(f"{kind.value}: {version}" for kind, version in table.versions.items())
    console.print(Text.assemble((table.backend, "bold"), f"  {where or 'not on this device'}"))
    for row in table.rows:
        devices = ", ".join(kind.value for kind in row.devices or table.devices)
        reason = f" ({row.reason.value})" if row.reason else ""
        answer = (f"{row.answer.value}{reason}", _STYLES[row.answer])
        console.print(Padding(Text.assemble(f"{devices:<9} ", answer, f"  {_conditions(row)}"), (0, 0, 0, 2)))
        if row.message:
            console.print(Padding(Text(row.message), _INDENT))
        console.print(Padding(Text(f"source: {row.source}", style="dim"), _INDENT))
    console.print()


def _conditions(row: SupportRow) -> str:
    """In words, for which checkpoints a row holds."""
    formats = ", ".join(one.value.rpartition("/")[2] for one in row.formats)
    parts = [
        formats or "any format",
        f"{_listed(row.weight_bits)} bit" if row.weight_bits else "",
        f"activations of {_listed(row.activation_bits)} bit" if row.activation_bits else "",
        f"groups of {_listed(row.group_sizes)}" if row.group_sizes else "",
        _FLAGS["symmetric"].get(row.symmetric, ""),
        _FLAGS["activation_order"].get(row.activation_order, ""),
        _FLAGS["zeros"].get(row.zeros, ""),
        f"layers of {row.layer_widths.value} widths" if row.layer_widths else "",
        f"in {' or '.join(one.value for one in row.dtypes)}" if row.dtypes else "",
        " ".join(one.removesuffix("ForCausalLM") for one in row.architectures),
        "otherwise" if row.otherwise else "",
    ]
    return ", ".join(part for part in parts if part)


def _listed(values: tuple[int, ...]) -> str:
    return "/".join(map(str, values))
