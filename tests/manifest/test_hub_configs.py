"""What a plan asks the hub for of a model: its configuration and its size, from a hub of one's own on this machine."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.manifest.hub import HubUnavailable, NotOnHub, model_config, weights_bytes

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Answers every request alike, and keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.content, self.asked = 200, b"{}", list[str]()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        hub = self.server
        assert isinstance(hub, Hub)
        if self.path.endswith("config.json"):  # the client asks for things of its own, too
            hub.asked.append(self.path)
        self.send_response(hub.status)
        self.send_header("Content-Length", str(len(hub.content)))
        self.end_headers()
        self.wfile.write(hub.content)

    do_HEAD = do_GET  # noqa: N815  the name that the server looks up

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


def test_a_config_is_read_at_its_commit(hub: Hub) -> None:
    hub.content = json.dumps({"model_type": "opt"}).encode()
    assert model_config("org/model", COMMIT) == {"model_type": "opt"}
    assert hub.asked == [f"/org/model/resolve/{COMMIT}/config.json"]


@pytest.mark.parametrize(
    ("status", "content"),
    [(404, b"none"), (403, b"gated"), (503, b"{}"), (200, b"[1]"), (200, b"[" * 5000), (200, b" " * 2**21 + b"{}")],
)
def test_one_that_cannot_be_used_is_none_and_is_asked_for_once(hub: Hub, status: int, content: bytes) -> None:
    hub.status, hub.content = status, content
    assert model_config("org/model", COMMIT) is None
    assert len(hub.asked) == 1


def test_a_hub_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnavailable, match="does not answer for org/model"):
        model_config("org/model", COMMIT)


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({"model.safetensors": 7, "config.json": 1, "consolidated.safetensors": 7, "pytorch_model.bin": 7}, 7),
        ({f"model-0000{part}-of-00002.safetensors": part for part in (1, 2)} | {"onnx/model.safetensors": 9}, 3),
        ({"pytorch_model.bin": 7}, None),
        ({}, None),
    ],
)
def test_the_weights_that_would_be_fetched_are_counted(hub: Hub, files: dict[str, int], size: int | None) -> None:
    siblings = [{"rfilename": name, "size": size} for name, size in files.items()]
    hub.content = json.dumps({"id": "org/model", "sha": COMMIT, "siblings": siblings}).encode()
    assert weights_bytes("org/model", COMMIT) == size


def test_a_size_that_the_hub_does_not_tell_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 401
    with pytest.raises((NotOnHub, HubUnavailable)):
        weights_bytes("org/model", COMMIT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnavailable):
        weights_bytes("org/model", COMMIT)
