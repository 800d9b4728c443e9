"""The pages: which parts they have, and the templates that write them. Every text of the store is escaped.

A part is written only where who asks does not have it already: its version is another one as soon as it would be
written otherwise. So what a script asks for each second is small, however many stages a run has.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import jinja2

from harness.contract import RESULT_NAME
from harness.contract.text import one_line
from orchestrator.report.html_rows import html_rows
from orchestrator.report.page_data import script_digest
from orchestrator.run.progress.wording import duration
from orchestrator.serve.answers import Answers, Standing
from orchestrator.serve.tails import Tail, document, end_of
from orchestrator.serve.watching import RunLine, RunState, Watch
from orchestrator.serve.work import AtWork, Work, event_lines
from orchestrator.stages import REQUEST_NAME, STDERR_NAME
from orchestrator.store import RunRecord, StageState, StageStatus, Unreadable, now

MOST_STAGES = 1000
"""In one table."""
_WAITING = "waiting"
_STOPPED = "stopped"
"""What was at work when the run's own process ended without a word."""
_SECONDS_AT_WORK = 1
_SECONDS_IDLE = 10


@dataclass(frozen=True)
class Written:
    """A page as it goes out. `version` is that of all its parts together."""

    html: str
    policy: str
    version: str = ""
    status: int = 200


def word(status: StageStatus, run: RunState) -> str:
    """The status of a stage of a run."""
    if status is StageStatus.PENDING:
        return _WAITING
    return _STOPPED if status is StageStatus.RUNNING and run is not RunState.AT_WORK else status.value


def moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def version(*content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StageLine:
    name: str
    state: StageState
    run: RunState

    @property
    def word(self) -> str:
        return word(self.state.status, self.run)

    @property
    def is_running(self) -> bool:
        return self.state.status is StageStatus.RUNNING and self.run is RunState.AT_WORK

    @property
    def message(self) -> str:
        return "" if self.state.failure is None else self.state.failure.message


class RunView:
    """What a run's page shows; nothing of it is looked up before it is written."""

    def __init__(self, record: RunRecord, line: RunLine, work: Work, standing: Standing, only: str) -> None:
        self.record = record
        self.line = line
        self.standing = standing
        self.only = only
        self._work = work
        self._lines = [StageLine(name, state, line.state) for name, state in record.stages.items()]
        self.running = [one for one in self._lines if one.is_running]

    @cached_property
    def versions(self) -> Mapping[str, str]:
        record, line = self.record, self.line
        at = record.updated, line.state
        stamps = [(one.name, self._work.stamp(one.state)) for one in self.running]
        answer = self.standing.answer
        made = None if answer is None else answer.made
        return {
            "state": version(*at),
            "work": version(*at, stamps),
            "answer": version(at[1], made, self.standing.making, self.standing.problem),
            "stages": version(*at, self.only),
            "facts": version(*at),
        }

    @property
    def at_work(self) -> list[AtWork]:
        return [self._work.at_work(one.name, one.state) for one in self.running]

    @property
    def filters(self) -> Counter[str]:
        """How many stages there are of each word."""
        return Counter(one.word for one in self._lines)

    @property
    def stages(self) -> list[StageLine]:
        return [one for one in self._lines if self.only in ("", one.word)]


@dataclass(frozen=True)
class StageView:
    """A stage's page; its files are read when it is written."""

    record: RunRecord
    line: StageLine
    work: Work

    @cached_property
    def versions(self) -> Mapping[str, str]:
        return {"stage": version(self.line, self.work.stamp(self.line.state))}

    @property
    def at_work(self) -> AtWork | None:
        return self.work.at_work(self.line.name, self.line.state) if self.line.is_running else None

    @property
    def folder(self) -> str:
        """Within the store; empty where nothing lies there."""
        found = self.work.folder(self.line.state)
        return "" if found is None else f"{found.parent.name}/{found.name}"

    @property
    def texts(self) -> list[tuple[str, str, Tail]]:
        """Each file: an id, a heading, and as much of it as is shown."""
        folder = self.work.folder(self.line.state)
        if folder is None:
            return []
        found = [
            ("log", "Standard error", end_of(folder / STDERR_NAME)),
            ("events", "Events", event_lines(folder)),
            ("request", "Request", document(folder / REQUEST_NAME)),
        ]
        if self.line.state.has_result:
            found.append(("result", "Result", document(folder / RESULT_NAME)))
        return found


class Pages:
    """Writes pages of one store."""

    def __init__(self, watch: Watch, answers: Answers) -> None:
        self._watch = watch
        self._answers = answers
        self._work = Work(watch.store)
        self._templates = _templates()
        self._script = _source(self._templates, "serve/live.js")
        self._style = self._templates.get_template("serve/style.css.j2").render()
        style, script = script_digest(self._style), script_digest(self._script)
        self._policy = (
            f"default-src 'none'; style-src '{style}'; script-src '{script}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def runs(self, known: Collection[str] = ()) -> Written:
        lines, unreadable = self._watch.runs()
        root, there = self._watch.store.root, self._watch.store.root.is_dir()
        versions = {"runs": version(lines, [one.message for one in unreadable], there)}
        return self._write(
            "runs",
            known,
            versions,
            _SECONDS_IDLE,
            lines=lines,
            unreadable=unreadable,
            root=root,
            is_there=root.is_dir(),
        )

    def run(self, name: str, only: str = "", known: Collection[str] = (), *, at_once: bool = False) -> Written | None:
        """None where there is no such run. `at_once`: see `Answers.of`. Raises `Unreadable`."""
        record = self._watch.record(name)
        if record is None:
            return None
        line = self._watch.line(record)
        view = RunView(record, line, self._work, self._answers.of(record, at_once=at_once), only)
        busy = line.state is RunState.AT_WORK or view.standing.making is not None
        return self._write("run", known, view.versions, _SECONDS_AT_WORK if busy else _SECONDS_IDLE, run=view)

    def stage(self, name: str, stage: str, known: Collection[str] = ()) -> Written | None:
        """None where there is no such stage. Raises `Unreadable`."""
        record = self._watch.record(name)
        if record is None or stage not in record.stages:
            return None
        run = self._watch.line(record).state
        view = StageView(record, StageLine(stage, record.stages[stage], run), self._work)
        seconds = _SECONDS_AT_WORK if run is RunState.AT_WORK else _SECONDS_IDLE
        return self._write("stage", known, view.versions, seconds, stage=view)

    def report(self, name: str) -> Written | None:
        """The run's whole report, or a page that says when there will be one. Raises `Unreadable`."""
        record = self._watch.record(name)
        if record is None:
            return None
        standing = self._answers.of(record)
        if standing.answer is not None:
            page = standing.answer.page
            return Written(page.html, f"{page.policy}; frame-ancestors 'none'")
        told = standing.problem or (standing.making and f"The report is not there yet: {standing.making.value}.")
        return self.message("Report", told or "There is no result yet to make a report of.", run=name, status=404)

    def message(self, title: str, told: str, *, run: str = "", status: int) -> Written:
        return self._write("message", (), {}, _SECONDS_AT_WORK, status, title=title, told=one_line(told), run=run)

    def unreadable(self, unreadable: Unreadable) -> Written:
        return self.message("Something cannot be read", f"{unreadable.message}. {unreadable.hint}", status=500)

    def _write(
        self,
        template: str,
        known: Collection[str],
        versions: Mapping[str, str],
        seconds: int,
        status: int = 200,
        **context: object,
    ) -> Written:
        whole = version(versions, seconds)
        if whole in known:
            return Written("", self._policy, whole, 304)
        html = self._templates.get_template(f"serve/{template}.html.j2").render(
            {
                "page": template,
                "whole": whole,
                "known": known,
                "versions": versions,
                "seconds": seconds,
                "style": self._style,
                "script": self._script,
                "store": self._watch.store.root.name,
                "now": now(),
                **context,
            }
        )
        return Written(html, self._policy, whole, status)


def _source(templates: jinja2.Environment, name: str) -> str:
    assert templates.loader is not None  # noqa: S101  it was made with one
    return templates.loader.get_source(templates, name)[0]


def _templates() -> jinja2.Environment:
    """Those of the report are beside: pages share its stylesheet and its tables."""
    packages = {room: jinja2.PackageLoader(f"orchestrator.{room}") for room in ("serve", "report")}
    made = jinja2.Environment(
        loader=jinja2.PrefixLoader(packages),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"duration": duration, "moment": moment, "one_line": one_line, "html_rows": html_rows}
    made.globals |= {"most_stages": MOST_STAGES}
    return made
