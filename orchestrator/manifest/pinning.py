"""Writes into a manifest which commits its models of the hub are, so that another run measures the same weights."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.errors import BadManifest
from orchestrator.host.files import write_atomically
from orchestrator.manifest.document import Path as YamlPath
from orchestrator.manifest.editing import replace_values
from orchestrator.manifest.hub import NotOnHub
from orchestrator.manifest.hub_source import HubSource, hub_source
from orchestrator.manifest.reading import read_composed

Ask = Callable[[str, str | None], str]
"""The commit that a revision (None: the default branch) of a repository is at."""


class Change(StrEnum):
    PINNED = "pinned"
    KEPT = "kept"
    UPDATED = "updated"
    FAILED = "failed"


@dataclass(frozen=True)
class PinnedModel:
    """What became of one model of the hub. `source` is what `file` now says, the manifest or one that it includes;
    `reason` is given if it failed."""

    model: str
    change: Change
    source: str
    file: Path
    reason: str = ""


def pin_manifest(path: Path, ask: Ask, *, update: bool = False) -> tuple[PinnedModel, ...]:
    """Write the commit of every model of the hub that names none; with `update`, of those that name one, too.

    It is written where the source stands, in the manifest or in a file that it includes; each file changes in one step.
    An update asks for the default branch. A model that the hub does not show fails alone.

    Raises:
        BadManifest: the manifest cannot be read, edited or written.
        HubUnavailable: the hub does not answer; the file is left as it was.
    """
    manifest, composed = read_composed(path)
    outcomes: list[PinnedModel] = []
    values: dict[Path, dict[YamlPath, str]] = {}
    for index, model in enumerate(manifest.models):
        source = hub_source(model.source)
        if source is None:
            continue
        written = composed.origin_of(("models", index, "source"))
        outcome = _resolve(model.name, source, written.file, ask, update=update)
        outcomes.append(outcome)
        if outcome.source != model.source:
            values.setdefault(written.file, {})[written.path] = outcome.source
    for file, changed in values.items():
        _write(file, changed)
    return tuple(outcomes)


def _resolve(model: str, source: HubSource, file: Path, ask: Ask, *, update: bool) -> PinnedModel:
    if source.commit is not None and not update:
        return PinnedModel(model, Change.KEPT, source.at(source.commit), file)
    try:
        commit = ask(source.repository, None if source.commit is not None else source.revision)
    except NotOnHub as failure:
        written = f"hub:{source.repository}" + (f"@{source.revision}" if source.revision is not None else "")
        return PinnedModel(model, Change.FAILED, written, file, f"{failure.message}; {failure.hint}")
    if commit == source.commit:
        return PinnedModel(model, Change.KEPT, source.at(commit), file)
    return PinnedModel(model, Change.PINNED if source.commit is None else Change.UPDATED, source.at(commit), file)


def _write(path: Path, values: dict[YamlPath, str]) -> None:
    target = path.resolve()
    try:
        with target.open(encoding="utf-8", newline="") as file:
            text = file.read()
        mode = target.stat().st_mode
        write_atomically(target, replace_values(text, values))
        target.chmod(mode)
    except OSError as failure:
        raise BadManifest(f"cannot write {path}: {failure}", hint="make its folder writable") from failure
