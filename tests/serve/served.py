"""A store that is served to a client in this process."""

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from orchestrator.store import Store
from tests.support.small_runs import CATALOG

pytest.importorskip("starlette", reason="the extra serve is not installed: make setup")

from orchestrator.serve.app import make_app
from orchestrator.serve.guard import Access

LOOPBACK = Access("127.0.0.1")


class Client:
    """Asks an application that needs no socket, and keeps its cookies."""

    def __init__(self, root: Path, access: Access, base: str) -> None:
        self._transport = httpx.ASGITransport(make_app(Store(root), CATALOG, access))
        self._base = base
        self._cookies = httpx.Cookies()

    def request(self, method: str, path: str, **how: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            facts: dict[str, Any] = {"base_url": self._base, "cookies": self._cookies}
            async with httpx.AsyncClient(transport=self._transport, **facts) as asking:
                answer = await asking.request(method, path, **how)
                self._cookies = asking.cookies
                return answer

        return asyncio.run(ask())

    def get(self, path: str, **how: Any) -> httpx.Response:
        return self.request("GET", path, **how)


def client(root: Path, access: Access = LOOPBACK, base: str = "http://127.0.0.1:8765") -> Client:
    return Client(root, access, base)


def stage_path(run: str, stage: str) -> str:
    return f"/runs/{quote(run)}/stages/{quote(stage)}"


def until(ask: Client, path: str, told: str) -> httpx.Response:
    """The page as soon as it says so."""
    for _ in range(600):
        if told in (answer := ask.get(path)).text:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come to say {told!r}")
