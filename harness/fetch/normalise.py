"""From any usable Hugging Face folder to a published dense checkpoint that old and new readers load."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoint import CONFIG_NAME, ForeignCheckpoint, inspect_foreign, publish
from harness.contract import DESCRIPTOR_NAME, CheckpointDescriptor, CheckpointFormat, Dtype, FileEntry
from harness.fetch import tokenizer
from harness.fetch.configuration import check_loadable, for_all_readers
from harness.fetch.soundness import check_tokenizer, check_weights
from harness.fetch.weights import Transfer, convert_weights, place_weights, stored_dtype
from harness.fetch.workspace import Workspace
from harness.reporter import Reporter

KEPT_NAMES = tokenizer.KEPT_NAMES | {"generation_config.json"}
"""Besides config and weights, all that a checkpoint carries."""

_NAMED_IN_NOTE = 5


@dataclass(frozen=True)
class Origin:
    """Where a folder came from, how its files may be taken, and what there is to say about it.

    Its files may be links to files below `links_into`.
    """

    folder: Path
    source: str
    transfer: Transfer
    notes: tuple[str, ...] = ()
    links_into: Path | None = None


def normalise(origin: Origin, dtype: Dtype | None, workspace: Workspace, reporter: Reporter) -> CheckpointDescriptor:
    """Publish the folder as a dense checkpoint, in `dtype` or else in its own.

    Raises:
        BadCheckpoint: the folder is incomplete, damaged, or contradicts itself.
        Unsupported: it is a model that this project cannot load.
    """
    foreign = inspect_foreign(origin.folder, origin.links_into)
    architecture = check_loadable(foreign.config)
    tokenizer.require_vocabulary(origin.folder, foreign.other_files)
    own_dtype, dtype_notes = stored_dtype(foreign.tensors)
    stored = dtype or own_dtype
    config = for_all_readers(foreign.config, architecture, stored)
    staging = workspace.staging
    (staging / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    sound = check_weights(staging, origin.folder, foreign.tensors)
    for name in KEPT_NAMES.intersection(foreign.other_files):
        origin.transfer(origin.folder / name, staging / name)
    code_notes = (*_note_code(foreign.config), *tokenizer.mend_settings(staging))
    tokenizer_notes = check_tokenizer(staging)
    if stored is own_dtype:
        place_weights(origin.folder, foreign, staging, origin.transfer, reporter, leave_out=sound.copies)
    else:
        convert_weights(origin.folder, foreign, staging, stored, reporter, leave_out=sound.copies)
        dtype_notes = (f"converted from {own_dtype.value} to {stored.value}",)
    code_notes = (*code_notes, *sound.notes, *tokenizer_notes)
    notes = (*origin.notes, *dtype_notes, *code_notes, *_note_left_out(origin.folder, foreign))

    def make(files: dict[str, FileEntry]) -> CheckpointDescriptor:
        return CheckpointDescriptor(
            files=files,
            notes=notes,
            format=CheckpointFormat.DENSE,
            dtype=stored,
            architecture=architecture,
            parameter_count=sound.parameter_count,
            source=origin.source,
        )

    return publish(staging, workspace.artifact, make)


def _note_code(config: Mapping[str, Any]) -> tuple[str, ...]:
    if not config.get("auto_map"):
        return ()
    return (f"auto_map left out of {CONFIG_NAME}: transformers has this model itself",)


def _note_left_out(folder: Path, foreign: ForeignCheckpoint) -> tuple[str, ...]:
    notes = []
    if (folder / DESCRIPTOR_NAME).is_file():
        notes.append(f"the source's own {DESCRIPTOR_NAME} does not count: this checkpoint is taken for uncompressed")
    names = sorted((*foreign.left_out, *(name for name in foreign.other_files if name not in KEPT_NAMES)))
    if names:
        rest = len(names) - _NAMED_IN_NOTE
        more = f" and {rest} more" if rest > 0 else ""
        notes.append(f"left out of the checkpoint: {', '.join(names[:_NAMED_IN_NOTE])}{more}")
    return tuple(notes)
