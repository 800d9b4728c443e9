"""A run that really goes on, in a process of its own, seen in a real browser without a reload."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.report.chromium import AXE, HEIGHT, WIDTHS, Opened, browser
from tests.serve.slow_run import COMPRESS, MESSAGE

PROJECT = Path(__file__).parents[2]
EVALUATE = "evaluate/tiny/sparsegpt-50%/arc_easy"
PATIENCE_MS = 120_000
SERVE = (
    "-c",
    "import os; os.setpriority = lambda *_: None; from orchestrator.cli import main; main()",
    "serve",
    "--port",
    "0",
)
"""The command at the priority of the test itself, which waits for it beside whatever else this machine does."""

pytest.importorskip("uvicorn", reason="the extra serve is not installed: make setup")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,  # two more processes, and a browser
]
running = pytest.fixture(scope="module")(browser)


@contextmanager
def process(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of the project. Where it keeps locks of devices nobody else does."""
    started = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a store that is not there yet."""
    with process(*SERVE, "--store", str(tmp_path / "store"), folder=tmp_path) as serving:
        assert serving.stdout is not None
        yield serving.stdout.readline().strip()


def test_a_stage_is_seen_to_wait_to_run_and_to_be_done_without_a_reload(running, served, tmp_path) -> None:
    gates = tmp_path / "gates"
    gates.mkdir()
    context = running.new_context(viewport={"width": WIDTHS["wide"], "height": HEIGHT})
    opened = Opened(context.new_page())
    page = opened.page
    page.set_default_timeout(PATIENCE_MS)

    def state(stage: str, word: str) -> None:
        page.locator(f'[id="stage-{stage}"] td.{word}').wait_for()

    page.goto(served)
    assert "There is no store at" in page.inner_text("main")
    with process("-m", "tests.serve.slow_run", str(tmp_path / "store"), str(gates), folder=tmp_path):
        page.locator("th a", has_text="small-").click()
        state("fetch/tiny", "running")
        state(COMPRESS, "waiting")
        page.locator("#facts ~ details summary").last.click()
        page.evaluate("window.seen = 'the same page'")

        (gates / "fetch").touch()
        state("fetch/tiny", "done")
        state(COMPRESS, "running")
        state(EVALUATE, "waiting")
        page.locator(".last", has_text=MESSAGE).wait_for()
        bar = page.locator(".card progress")
        assert (bar.get_attribute("value"), bar.get_attribute("max")) == ("1", "3")
        assert "1 of 3 blocks" in page.inner_text(".card")
        # Of what comes before, there may be one.
        page.locator("#part-answer", has_text="answer is not there yet").wait_for()
        before = page.inner_text(".card [data-since]")
        page.wait_for_timeout(2500)
        assert page.inner_text(".card [data-since]") != before
        if AXE is not None:
            assert opened.findings() == []

        (gates / "compress").touch()
        state(COMPRESS, "done")
        state(EVALUATE, "done")
        page.locator("#part-state strong", has_text="Ended").wait_for()
        assert page.locator(".card").count() == 0
        page.locator("#part-answer a", has_text="The whole report").wait_for()
    assert page.evaluate("window.seen") == "the same page"
    assert page.is_visible("pre[aria-label='The manifest']")  # what was opened stays open
    assert opened.complaints == []
    assert {request.partition("?")[0].startswith(served) for request in opened.requests} == {True}

    page.click("#part-answer a:has-text('The whole report')")
    page.wait_for_selector("html[data-ready]", state="attached")
    page.wait_for_selector("[data-scatter] svg path")
    assert opened.complaints == []
    context.close()


def test_a_page_says_when_nothing_answers_any_more(running, tmp_path) -> None:
    context = running.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    with process(*SERVE, "--store", str(tmp_path / "none"), folder=tmp_path) as serving:
        page.goto(serving.stdout.readline().strip())
        assert page.is_hidden("#link")
    page.locator("#link", has_text="the server does not answer").wait_for()
    context.close()


def test_pages_of_an_ended_run_fit_every_window_and_axe_finds_nothing(running, tmp_path) -> None:
    root, gates = tmp_path / "store", tmp_path / "gates"
    gates.mkdir()
    for name in ("fetch", "compress"):
        (gates / name).touch()
    with process("-m", "tests.serve.slow_run", str(root), str(gates), folder=tmp_path) as run:
        assert run.wait() == 0
    with process(*SERVE, "--store", str(root), folder=tmp_path) as serving:
        address = serving.stdout.readline().strip()
        for width, scheme in itertools.product(WIDTHS.values(), ("light", "dark")):
            context = running.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
            page = Opened(context.new_page())
            page.page.set_default_timeout(PATIENCE_MS)
            page.page.goto(address)
            fits(page)
            page.page.click("th a")
            page.page.locator("#part-answer a", has_text="The whole report").wait_for()
            fits(page)
            page.page.goto(f"{page.page.url}?now=1&state=done")
            assert page.ask("location.search") == "?state=done"  # so that a look for news does not ask for it again
            page.page.click(f'[id="stage-{COMPRESS}"] a')
            page.page.locator("#result-text").wait_for()
            fits(page)
            assert page.complaints == []
            context.close()


def fits(page: Opened) -> None:
    page.ask("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.overflow == 0
    assert AXE is None or page.findings() == []
