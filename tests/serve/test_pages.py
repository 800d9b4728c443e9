"""What the served pages show of a store, whoever wrote what lies in it."""

import base64
import hashlib
import os
import re
import shutil
from html import unescape
from pathlib import Path

import pytest

from harness.contract import ErrorCode, ErrorEvent, Log, Progress, WorkRequest, WorkResult
from orchestrator.errors import Interrupted
from orchestrator.host import locks
from orchestrator.run import resources
from orchestrator.serve.app import KNOWN
from orchestrator.serve.tails import MOST_LOG_BYTES
from orchestrator.store import RunRecord, StageStatus
from tests.serve.served import client, stage_path, until
from tests.store.test_reading_creates_nothing import snapshot
from tests.support.fake_runtime import FakeRuntime
from tests.support.small_runs import MANIFEST, Bench
from tests.support.stage_workers import keeping_worker

COMPRESS = "compress/tiny/sparsegpt-50%"
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202eevil"


def failing_worker(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
    """Compresses nothing, and says why, in a hostile way."""
    if request.id != COMPRESS:
        return keeping_worker(request, output)
    (output.parent / "stderr.log").write_text(f"{HOSTILE}\n" * 5000)
    return ErrorEvent(id=request.id, code=ErrorCode.INTERNAL, message=f"broke: {HOSTILE}", hint="mend it")


def telling(request: WorkRequest) -> list[Log | Progress]:
    return [
        Progress(done=1, total=2, unit="item"),
        Log(message=HOSTILE),
        *[Log(message=f"line {n}") for n in range(300)],
    ]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run, in which compressing failed."""
    root = tmp_path_factory.mktemp("served") / "store"
    Bench(root).run(FakeRuntime(failing_worker, tell=telling))
    return root


@pytest.fixture
def mine(ended: Path, tmp_path: Path) -> Path:
    """The same, for a test that changes it."""
    return Path(shutil.copytree(ended, tmp_path / "store", symlinks=True))


def run_of(root: Path) -> RunRecord:
    return Bench(root).store.runs.load("last")


def at_compression(bench: Bench, look: object = None) -> RunRecord:
    """A run that looks at something while it compresses, and is interrupted then."""

    def worker(request: WorkRequest, output: Path) -> WorkResult | ErrorEvent:
        if request.id == COMPRESS:
            if callable(look):
                look()
            raise KeyboardInterrupt
        return keeping_worker(request, output)

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        bench.run(FakeRuntime(worker, tell=telling))
    return bench.store.runs.load("last")


def test_runs_are_listed_with_their_state_the_newest_first(bench: Bench) -> None:
    at_compression(bench)
    bench.run(FakeRuntime(keeping_worker), {**MANIFEST, "name": "another"})
    page = client(bench.root).get("/").text
    names = re.findall(r'<th scope="row"><a href="/runs/([^"]+)">', page)
    assert [name.rpartition("-")[0].rpartition("-")[0] for name in names] == ["another", "small"]
    assert '<td class="ended">ended</td>' in page
    assert '<td class="interrupted">interrupted</td>' in page
    assert "1 interrupted" in page


def test_a_run_says_how_each_stage_stands_and_why_one_failed(ended: Path) -> None:
    record = run_of(ended)
    page = client(ended).get(f"/runs/{record.run}").text
    results = sum(state.has_result for state in record.stages.values())
    assert f"{results} of {len(record.stages)} stages have a result; 1 failed" in page
    for name in record.stages:
        assert f">{name}</a>" in page
    assert "broke: &lt;script&gt;" in page
    only = client(ended).get(f"/runs/{record.run}?state=failed").text
    assert only.count('<tr id="stage-') == 1
    assert "No stage is nothing" in client(ended).get(f"/runs/{record.run}?state=nothing").text


def test_what_is_at_work_is_seen_with_its_progress_and_last_message(bench: Bench) -> None:
    seen: list[str] = []

    def look() -> None:
        ask, run = client(bench.root), bench.store.runs.load("last").run
        seen.extend(ask.get(path).text for path in ("/", f"/runs/{run}", stage_path(run, COMPRESS)))

    record = at_compression(bench, look)
    runs, run, stage = seen
    assert '<td class="at_work">at work</td>' in runs
    card = run[run.index('id="work"') : run.index('id="answer"')]
    assert COMPRESS in card
    assert "1 of 2 items" in card
    assert "line 299" in card
    assert "on cpu, 1 thread" in card
    assert '<td class="running">running</td>' in run
    assert f'<td class="unbroken">{record.stages[COMPRESS].started:%Y-%m-%d}' in run
    assert '<td class="waiting">waiting</td>' in run
    assert "Running</strong>" in stage
    assert "line 299" in stage
    afterwards = client(bench.root).get(f"/runs/{record.run}").text
    assert "Interrupted</strong>" in afterwards
    assert 'id="work"' not in afterwards


def test_a_run_that_prepares_or_waits_says_that_no_stage_is_running(bench: Bench) -> None:
    record = at_compression(bench)
    with locks.hold(bench.store.locks / f"run-{record.run}"):
        page = client(bench.root).get(f"/runs/{record.run}").text
    assert "At work</strong>" in page
    assert "No stage is running at this instant" in page
    assert "No stage is running" not in client(bench.root).get(f"/runs/{record.run}").text


def test_a_run_whose_process_was_killed_is_not_at_work(bench: Bench) -> None:
    pages: list[Path] = []

    def look() -> None:
        pages.append(Path(shutil.copytree(bench.root, bench.root.parent / "killed")))

    record = at_compression(bench, look)
    page = client(pages[0]).get(f"/runs/{record.run}").text
    assert "no process of this machine is at work on it" in page
    assert '<td class="stopped">stopped</td>' in page
    assert 'id="work"' not in page


def test_logs_of_hostile_workers_are_bounded_escaped_and_without_control_characters(ended: Path) -> None:
    record = run_of(ended)
    for path in (f"/runs/{record.run}", stage_path(record.run, COMPRESS)):
        page = client(ended).get(path).text
        assert "<script>alert" not in page
        assert "\x1b" not in page
        assert "\u202e" not in page
    (log, events, request) = re.findall(r'<pre class="text"[^>]*>(.*?)</pre>', page, flags=re.DOTALL)
    assert 0 < len(unescape(log).encode()) <= MOST_LOG_BYTES * 1.2  # a mark of 3 bytes for one of a control character
    assert "bytes before it are left out here" in page
    assert events.splitlines()[-1].startswith("internal: broke: &lt;script&gt;alert(1)&lt;/script&gt;")
    assert len(events.splitlines()) == 200
    assert "&#34;operation&#34;: &#34;compress&#34;" in request


def test_each_stage_has_what_lies_of_it_in_the_store(ended: Path) -> None:
    record = run_of(ended)
    for name, state in record.stages.items():
        page = client(ended).get(stage_path(record.run, name))
        assert page.status_code == 200
        assert (state.key or "Nothing of it lies in the store") in page.text
        assert ('id="result-text"' in page.text) == state.has_result
    blocked = next(name for name, state in record.stages.items() if state.status is StageStatus.BLOCKED)
    assert f"needs {COMPRESS}, which has no result" in client(ended).get(stage_path(record.run, blocked)).text


@pytest.mark.parametrize(
    "path",
    [
        "/runs/none",
        "/runs/%2e%2e",
        "/runs/..%2f..%2fetc",
        "/runs/%00",
        "/runs/small",
        "/runs/{run}/stages/none",
        "/runs/{run}/stages/%2e%2e/run.json",
        "/runs/{run}/stages//etc/passwd",
        "/runs/{run}/run.json",
        "/stages/{key}/result.json",
        "/" + "x" * 20_000,
    ],
)
def test_nothing_is_found_but_runs_and_stages_by_their_names(ended: Path, path: str) -> None:
    record = run_of(ended)
    answer = client(ended).get(path.format(run=record.run, key=record.stages["fetch/tiny"].key))
    assert answer.status_code == 404
    assert "There is no such run or stage" in answer.text


def test_no_link_in_a_store_leads_out_of_it(mine: Path, tmp_path: Path) -> None:
    record = run_of(mine)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "stderr.log").write_text("a secret")
    fetched, compressed = (mine / "stages" / str(record.stages["fetch/tiny"].key), next((mine / "failures").iterdir()))
    shutil.rmtree(fetched)
    fetched.symlink_to(secret)
    (compressed / "stderr.log").unlink()
    (compressed / "stderr.log").symlink_to(secret / "stderr.log")
    (compressed / "request.json").unlink()
    os.mkfifo(compressed / "request.json")
    for stage in ("fetch/tiny", COMPRESS):
        page = client(mine).get(stage_path(record.run, stage))
        assert page.status_code == 200
        assert "a secret" not in page.text
    assert page.text.count("It cannot be read") == 2


def test_a_damaged_record_is_named_and_the_rest_is_shown(mine: Path) -> None:
    record = run_of(mine)
    damaged = mine / "runs" / "damaged-001"
    damaged.mkdir()
    (damaged / "run.json").write_text(f'{{"run": "{HOSTILE}"')
    ask = client(mine)
    page = ask.get("/").text
    assert "runs/damaged-001 cannot be read" in page
    assert f'href="/runs/{record.run}"' in page
    answer = ask.get("/runs/damaged-001")
    assert answer.status_code == 500
    assert "runs/damaged-001 cannot be read" in answer.text
    assert "orchestrator clean --run damaged-001" in answer.text


def test_what_came_out_so_far_is_made_from_the_results_that_there_are(ended: Path) -> None:
    run, ask = run_of(ended).run, client(ended)
    assert "The answer is not there yet" in ask.get(f"/runs/{run}").text
    page = until(ask, f"/runs/{run}", "The whole report").text
    assert "Overall metrics" in page
    assert "Nothing can be recommended" in page
    report = ask.get(f"/runs/{run}/report")
    assert f"Benchmark report: {run}" in report.text
    own = re.search(r'Content-Security-Policy" content="([^"]*)"', report.text)
    assert own is not None
    assert report.headers["Content-Security-Policy"] == f"{own[1]}; frame-ancestors 'none'"


def test_a_lost_result_is_named_beside_what_came_out(mine: Path) -> None:
    record = run_of(mine)
    shutil.rmtree(mine / "stages" / str(record.stages["evaluate/tiny/dense/arc_easy"].key))
    page = until(client(mine), f"/runs/{record.run}", "The whole report").text
    assert "the result is not in the store any more (the result of evaluate/tiny/dense/arc_easy)" in page


def test_a_report_is_made_once_until_there_is_news(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.serve import answers

    made: list[str] = []
    build = answers.build_report
    monkeypatch.setattr(answers, "build_report", lambda record, *rest: made.append(record.run) or build(record, *rest))
    run, ask = run_of(mine).run, client(mine)
    until(ask, f"/runs/{run}", "The whole report")
    for _ in range(3):
        ask.get(f"/runs/{run}")
        ask.get(f"/runs/{run}/report")
    assert made == [run]


@pytest.mark.parametrize("device", ["cpu", "host"])
def test_nothing_is_computed_while_something_is_timed_unless_it_is_asked_for(ended: Path, device: str) -> None:
    run, ask = run_of(ended).run, client(ended)
    with locks.hold(resources.device_lock_path(device)):
        page = ask.get(f"/runs/{run}").text
        assert "it is made when what is being timed on this machine has ended" in page
        assert ask.get(f"/runs/{run}/report").status_code == 404
        until(ask, f"/runs/{run}?now=1", "The whole report")


def test_a_report_that_cannot_be_made_is_explained(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError(f"by {HOSTILE}")

    monkeypatch.setattr("orchestrator.serve.answers.build_report", broken)
    run = run_of(mine).run
    page = until(client(mine), f"/runs/{run}", "ZeroDivisionError: by &lt;script&gt;").text
    assert "<script>alert" not in page


def test_pages_follow_a_store_that_comes_and_goes(ended: Path, tmp_path: Path) -> None:
    root = tmp_path / "later"
    ask, run = client(root), run_of(ended).run
    assert "There is no store at" in ask.get("/").text
    shutil.copytree(ended, root)
    assert run in ask.get("/").text
    assert ask.get(f"/runs/{run}").status_code == 200
    shutil.rmtree(root)
    assert "There is no store at" in ask.get("/").text
    assert ask.get(f"/runs/{run}").status_code == 404
    assert list(tmp_path.iterdir()) == []


def test_reading_changes_nothing_in_the_store(mine: Path) -> None:
    record, ask = run_of(mine), client(mine)
    before = snapshot(mine)
    until(ask, f"/runs/{record.run}", "The whole report")
    for path in ("/", f"/runs/{record.run}/report", *(stage_path(record.run, name) for name in record.stages)):
        assert ask.get(path).status_code == 200
    assert snapshot(mine) == before


def test_who_has_a_part_already_does_not_get_it_again(ended: Path) -> None:
    run, ask = run_of(ended).run, client(ended)
    page = until(ask, f"/runs/{run}", "The whole report")
    whole = page.headers["ETag"].strip('"')
    parts = dict(re.findall(r'id="(part-\w+)" data-part="(\w+)"', page.text))
    assert set(parts) == {f"part-{name}" for name in ("state", "work", "answer", "stages", "facts")}
    assert ask.get(f"/runs/{run}", headers={KNOWN: whole}).status_code == 304
    short = ask.get(f"/runs/{run}", headers={KNOWN: f"{parts['part-stages']} {parts['part-answer']}"}).text
    assert f'data-part="{parts["part-stages"]}" data-same></div>' in short
    assert "Overall metrics" not in short
    assert "What was asked" in short


def test_the_policy_names_the_one_script_and_the_one_style_by_their_content(ended: Path) -> None:
    answer = client(ended).get(f"/runs/{run_of(ended).run}")
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", answer.text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in answer.headers["Content-Security-Policy"]
    assert not re.search(r"\s(style|on\w+)=", re.sub(r"<(script|style|pre).*?</\1>", "", answer.text, flags=re.DOTALL))
