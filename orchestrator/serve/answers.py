"""What came out of a run so far: reports, made beside the server in one thread, no more often than there is news.

Making one costs processor time. So it is made when somebody looks, from the results that there are then; not while
something is being timed on this machine's processor, which it would disturb; and after each the thread rests for as
long as several of them take.
"""

import sys
import threading
import time
import traceback
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.images.catalog import ImageCatalog
from orchestrator.report.building import build_report
from orchestrator.report.pages import Page, report_page
from orchestrator.report.recommendation import recommendations
from orchestrator.report.table import Table
from orchestrator.report.view import view
from orchestrator.run import resources
from orchestrator.store import RunRecord, StageStatus, Store, now
from orchestrator.store.history import as_it_is
from orchestrator.store.imported import FOLDER_NAME as IMPORTED_NAME

_MOST_RUNS = 4
"""Whose reports are kept."""
_REST = 4.0
"""Times as long as a report took."""
_UNDECIDED = (StageStatus.PENDING, StageStatus.RUNNING)
_WITH_RESULT = (StageStatus.DONE, StageStatus.CACHED)


@dataclass(frozen=True)
class Answer:
    """A run's report as far as it is measured. `results` are the stages that it was made of; `passed_over` says what of
    the store could not be used."""

    made: datetime
    results: int
    sentences: tuple[str, ...]
    overview: Table
    reading: str
    absolute: Table
    candidate_notes: tuple[str, ...]
    footnotes: tuple[tuple[int, str], ...]
    passed_over: tuple[str, ...]
    page: Page


class Making(StrEnum):
    """Why there is no newer answer yet."""

    NOW = "it is being made"
    SOON = "it is made in a moment"
    TIMED = "it is made when what is being timed on this machine has ended"


@dataclass(frozen=True)
class Standing:
    """`answer` is the last that was made, `making` why it is not of what the store has now, `problem` why none is."""

    answer: Answer | None = None
    making: Making | None = None
    problem: str = ""


@dataclass
class _Kept:
    store: Store
    of: object = None
    answer: Answer | None = None
    problem: str = ""
    rests_until: float = 0.0


class Answers:
    """The reports of one store's runs. Safe to use from several threads."""

    def __init__(self, store: Store, catalog: ImageCatalog) -> None:
        self._root = store.root
        self._catalog = catalog
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._busy: str | None = None

    def of(self, record: RunRecord, *, at_once: bool = False) -> Standing:
        """What is known of the run; where the store has more by now, that is made; `at_once`, timed or not."""
        with self._lock:
            kept = self._kept.pop(record.run, None) or _Kept(Store(self._root))
            self._kept[record.run] = kept
            while len(self._kept) > _MOST_RUNS:
                del self._kept[next(iter(self._kept))]
            wanted = _content(record, kept.store)
            making = self._make(record, kept, wanted, at_once=at_once)
            return Standing(kept.answer, making, kept.problem if kept.of == wanted else "")

    def _make(self, record: RunRecord, kept: _Kept, wanted: object, *, at_once: bool) -> Making | None:
        if kept.of == wanted or not any(state.has_result for state in record.stages.values()):
            return None
        if self._busy is not None:
            return Making.NOW if self._busy == record.run else Making.SOON
        if not at_once and resources.is_timed():
            return Making.TIMED
        if time.monotonic() < kept.rests_until:
            return Making.SOON
        self._busy = record.run
        threading.Thread(target=self._work, args=(record, kept, wanted), daemon=True).start()
        return Making.NOW

    def _work(self, record: RunRecord, kept: _Kept, wanted: object) -> None:
        begin, answer, problem = time.monotonic(), None, ""
        try:
            answer = _answer(record, kept.store, self._catalog)
        except OrchestratorError as failure:
            problem = failure.message
        except Exception as failure:  # noqa: BLE001  a thread has nobody above it: the page says so, the log has the rest
            problem = f"{type(failure).__name__}: {failure}"
            traceback.print_exc(file=sys.stderr)
        with self._lock:
            kept.of, kept.problem, kept.answer = wanted, problem, answer or kept.answer
            self._busy = None
            kept.rests_until = time.monotonic() + _REST * (time.monotonic() - begin)


def _answer(record: RunRecord, store: Store, catalog: ImageCatalog) -> Answer:
    found = as_it_is(store, record)
    report = build_report(found.record, store, catalog)
    content = view(report)
    return Answer(
        made=now(),
        results=sum(state.has_result for state in found.record.stages.values()),
        sentences=tuple(recommendations(report)),
        overview=content.overview,
        reading=content.reading,
        absolute=content.absolute,
        candidate_notes=content.candidates.notes,
        footnotes=content.footnotes,
        passed_over=tuple(one.message for one in (*found.unreadable, *store.imported.unreadable(record.run))),
        page=report_page(report),
    )


def _content(record: RunRecord, store: Store) -> object:
    """What a report is made of, as far as a look tells: how stages ended, and the folders of their results."""
    ends = [(name, one.status, one.key) for name, one in record.stages.items() if one.status not in _UNDECIDED]
    folders = [store.stages / key for _, status, key in ends if status in _WITH_RESULT and key is not None]
    beside = store.runs.folder / record.run / IMPORTED_NAME
    return record.ended, ends, [_changed(path) for path in (*folders, beside)]


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
