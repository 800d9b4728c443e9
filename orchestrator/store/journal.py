"""What a run did since its record was written as a whole: a line a change, so that a change costs the same in any run.

The first line names the record that the others change, by its seal: beside another record a journal means nothing. Each
line has a seal of its own. What a kill cut off at the end is passed over; it was not on the disk yet.
"""

import json
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.contract import Sha256
from orchestrator.host.files import sync_folder
from orchestrator.store import versioned
from orchestrator.store.records import StageState, StageStatus, now
from orchestrator.store.versioned import Document

JOURNAL_NAME = "journal.jsonl"
JOURNAL_VERSION = 1
_CHANGING = {"status", "key", "failure", "started", "wall_seconds"}
"""The fields of a stage's state that a run changes; the others are planned."""


class Journal:
    """A journal that is being written, in place of any that lay at `path`. Safe to use from several threads."""

    def __init__(self, path: Path, record: Sha256) -> None:
        """Begin one for the record with the seal `record`. Raises OSError, as `add` does."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        self._lock = threading.Lock()
        try:
            self._write({versioned.VERSION: JOURNAL_VERSION, "record": record})
            sync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    def add(self, stage: str, state: StageState, decisions: Iterable[str] = ()) -> None:
        """Note what a stage has come to, and what was decided on the way.

        It is on the disk afterwards, unless the stage has merely begun: who goes on looks for results, not for that.
        """
        changes = state.model_dump(mode="json", include=_CHANGING)
        line = {"stage": stage, "state": changes, "decisions": list(decisions)}
        with self._lock:
            self._write({"at": now().isoformat(), **line}, sync=state.status is not StageStatus.RUNNING)

    def close(self) -> None:
        """What is added afterwards raises: another file may have got the descriptor's number."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _write(self, document: Document, *, sync: bool = True) -> None:
        """The line as a whole, or nothing of it: a part would spoil those that follow."""
        line = json.dumps(versioned.sealed(document), ensure_ascii=False).encode() + b"\n"
        before = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
            if sync:
                os.fsync(self._descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, before)
            raise


def replay(record: Document, seal: Sha256, journal: bytes) -> None:
    """Bring a run's record, whose seal is `seal`, to where its journal ends.

    Raises:
        ValueError: the journal is damaged, or of a version that this program does not know.
    """
    head, *changes = _lines(journal) or [{}]
    if head.get("record") != seal:
        return
    if head.get(versioned.VERSION) != JOURNAL_VERSION:
        raise ValueError(
            f"its journal is of version {head.get(versioned.VERSION)!r}, and this program reads {JOURNAL_VERSION}"
        )
    decisions = dict.fromkeys(record["decisions"])
    for change in changes:
        record["stages"][change["stage"]] |= change["state"]
        record["updated"] = change["at"]
        decisions |= dict.fromkeys(change["decisions"])
    record["decisions"] = list(decisions)


def _lines(journal: bytes) -> list[dict[str, Any]]:
    """The lines up to the last whole one. Raises ValueError: one before that is not as it was written."""
    read: list[dict[str, Any]] = []
    damaged = 0
    for number, line in enumerate(journal.split(b"\n")[:-1], start=1):
        try:
            read.append(_unsealed(line))
        except ValueError:
            damaged = damaged or number
            continue
        if damaged:
            raise ValueError(f"line {damaged} of its journal is not what was written")
    return read


def _unsealed(line: bytes) -> dict[str, Any]:
    document = versioned.parse(line)
    if versioned.SEAL not in document:
        raise ValueError("a line without its seal")
    return versioned.unsealed(document)
