"""A report's page in a real browser: Debian's Chromium, driven by Playwright.

`LLMCBENCH_CHROMIUM` names the browser where it is not called `chromium`, `LLMCBENCH_AXE` the `axe.min.js` of the npm
package `axe-core`.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

EXECUTABLE = os.environ.get("LLMCBENCH_CHROMIUM") or shutil.which("chromium")
AXE = os.environ.get("LLMCBENCH_AXE")
WIDTHS = {"phone": 360, "tablet": 800, "wide": 1600}
HEIGHT = 900


class Opened:
    """A page that was opened, what it asked for, and what it complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)

    def wait_until(self, condition: str) -> None:
        """Asks again and again, since the page's policy lets no condition be evaluated within it."""
        for _ in range(200):
            if self.ask(condition):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"did not come true: {condition}")

    @property
    def screens(self) -> float:
        height: float = self.ask("document.documentElement.scrollHeight")
        return height / HEIGHT

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        found: int = self.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return found

    def findings(self) -> list[str]:
        """What axe-core objects to, each with the elements."""
        self.page.evaluate(Path(AXE or "").read_text("utf-8"))
        found = self.ask("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {', '.join(str(node['target']) for node in one['nodes'][:5])}" for one in found["violations"]
        ]


def browser() -> Iterator[Any]:
    """The body of a fixture; skips where there is no browser, and says what would give one."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
    if EXECUTABLE is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or name one in LLMCBENCH_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=EXECUTABLE, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def opened(running: Any, path: Path, width: int = WIDTHS["wide"], **context: Any) -> Iterator[Opened]:
    made = running.new_context(viewport={"width": width, "height": HEIGHT}, **context)
    try:
        page = Opened(made.new_page())
        page.open(path)
        yield page
    finally:
        made.close()
