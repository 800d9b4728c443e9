"""What the user sees while a run goes on, on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from harness.contract import Log, LogLevel, Operation, Progress
from orchestrator.run.progress import ProgressMode, SilentDisplay, choose_display
from orchestrator.run.progress.live import LiveDisplay
from orchestrator.run.progress.plain import PlainDisplay
from orchestrator.run.progress.rate import Rate
from orchestrator.run.progress.wording import duration
from orchestrator.store import Failure, FailureKind, StageState, StageStatus
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import Bench
from tests.support.stage_workers import honest_worker

PLANNED = StageState(operation=Operation.PROFILE, image="evaluate", subject=None, parameters={})


def test_a_log_gets_one_plain_line_for_each_thing_that_happens(bench: Bench) -> None:
    stream = io.StringIO()
    record = bench.run(FakeRuntime(honest_worker), display=PlainDisplay(stream))
    lines = stream.getvalue().splitlines()
    total = len(record.stages)
    assert sum(line.endswith(": started") for line in lines) == total
    assert sum(line.startswith("[") for line in lines) == total
    assert any(line.startswith(f"[{total}/{total}] ") for line in lines)
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_shows_each_finished_stage_and_takes_names_literally() -> None:
    stream = io.StringIO()
    display = LiveDisplay(Console(file=stream, force_terminal=True, width=100))
    display.begin(2)
    display.started("profile/[bold]odd")
    display.event("profile/[bold]odd", Progress(done=1, total=3, unit="layer"))
    display.event("profile/[bold]odd", Log(level=LogLevel.WARNING, message="mind [red]this"))
    display.finished("profile/[bold]odd", PLANNED.reached(StageStatus.DONE, wall_seconds=61.0))
    failure = Failure(kind=FailureKind.TIMED_OUT, message="no answer")
    display.finished("other", PLANNED.reached(StageStatus.FAILED, failure=failure))
    display.end()
    shown = stream.getvalue()
    assert all(words in shown for words in ("[bold]odd", "mind [red]this", "1 min 01 s", "failed: no answer"))


def test_progress_in_a_log_comes_with_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 100.0, 100.0, 110.0, 110.0])
    monkeypatch.setattr("orchestrator.run.progress.plain.time.monotonic", lambda: next(moments))
    stream = io.StringIO()
    display = PlainDisplay(stream)
    display.started("s")
    display.event("s", Progress(done=1, total=9, unit="layer"))
    display.event("s", Progress(done=3, total=9, unit="layer"))
    assert stream.getvalue().splitlines()[1:] == ["s: 1/9 layers", "s: 3/9 layers, about 30.0 s left"], (
        "the 100 s before the first layer are no pace"
    )


def test_a_pace_is_that_of_the_last_minute_of_one_count() -> None:
    rate = Rate()

    def left(done: int, now_seconds: float, *, total: int | None = 100, unit: str = "item") -> float | None:
        return rate.left(Progress(done=done, total=total, unit=unit), now_seconds)

    assert left(1, 50) is None
    assert left(2, 52) is None, "one item is no pace"
    assert left(5, 54) == pytest.approx(95)
    assert left(6, 200) == pytest.approx(94 * 148 / 4), "what is older than a minute is left out"
    assert left(100, 201) is None
    assert left(1, 202) is None, "it begins again"
    assert left(11, 206, unit="page") is None
    assert left(11, 207, total=None, unit="page") is None


def test_nothing_of_any_display_reaches_stdout(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for mode in (ProgressMode.LIVE, ProgressMode.PLAIN, ProgressMode.NONE, ProgressMode.AUTO):
        bench.run(FakeRuntime(honest_worker), display=choose_display(mode))
    assert capsys.readouterr().out == ""
    assert isinstance(choose_display(ProgressMode.NONE), SilentDisplay)
    assert isinstance(choose_display(ProgressMode.AUTO), PlainDisplay)


@pytest.mark.parametrize(("seconds", "text"), [(4.25, "4.2 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
