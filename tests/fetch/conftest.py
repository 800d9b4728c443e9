"""A tiny model, a stand-in for the hub, and a way to run the fetch operation inside the test."""

import ensurepip
import hashlib
import http.server
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from harness.contract import REQUEST, FetchRequest, FetchResult, digest_tree
from harness.fetch import run
from harness.reporter import Reporter

REVISION = "0123456789abcdef0123456789abcdef01234567"
CLOSED_PORT = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Fetched:
    result: FetchResult
    folder: Path
    events: list[dict]


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Fetched]:
    """Run one fetch request; keyword arguments are its parameters, `inputs` its inputs."""

    def perform(*, inputs: dict[str, str] | None = None, **parameters: object) -> Fetched:
        output = tmp_path / "out"
        output.mkdir()
        document = {"contract": 1, "id": "t", "operation": "fetch", "output": str(output), "parameters": parameters}
        request = REQUEST.validate_python({**document, "inputs": inputs or {}})
        assert isinstance(request, FetchRequest)
        stream = io.StringIO()
        try:
            result = run(request, Reporter(stream))
        finally:
            assert {path.name for path in output.iterdir()} <= {"artifact", "wheels"}
        return Fetched(result, output / "artifact", [json.loads(line) for line in stream.getvalue().splitlines()])

    return perform


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama in float32 with untied embeddings, and a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=16, num_key_value_heads=2, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(16)}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "w0", "eos_token": "w1"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, for a test to change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def fetch_folder(fetch: Callable[..., Fetched], model: Path) -> Callable[..., Fetched]:
    """Fetch that copy as a user's folder, as it is when this is called."""

    def perform(**parameters: object) -> Fetched:
        source = {"kind": "directory", "tree": digest_tree(model)}
        return fetch(source=source, inputs={"source": str(model)}, **parameters)

    return perform


@dataclass
class Hub:
    """Files by `models/org/name` or `datasets/org/name`; what is in `lied_about` has another sha256 than stated."""

    endpoint: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    lied_about: set[str] = field(default_factory=set)
    downloads: list[str] = field(default_factory=list)

    def add(self, kind: str, name: str, files: dict[str, bytes]) -> None:
        self.repositories[f"{kind}/{name}"] = files

    def add_folder(self, name: str, folder: Path) -> dict[str, bytes]:
        self.add("models", name, {path.name: path.read_bytes() for path in folder.iterdir()})
        return self.repositories[f"models/{name}"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local HTTP server that answers the hub's `revision` and `resolve` addresses, set as HF_ENDPOINT."""
    served = Hub()
    server = _HubServer(served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield served
    server.shutdown()
    server.server_close()


class _HubServer(http.server.ThreadingHTTPServer):
    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.hub = hub


class _HubHandler(http.server.BaseHTTPRequestHandler):
    server: _HubServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        for name, files in self.server.hub.repositories.items():
            if path == f"api/{name}/revision/{REVISION}":
                return self._send(_listing(self.server.hub, name, files), body=body)
            prefix = f"{name.removeprefix('models/')}/resolve/{REVISION}/"
            wanted = path.removeprefix(prefix)
            if wanted != path and wanted in files:
                self.server.hub.downloads.extend([wanted] if body else [])
                return self._send(files[wanted], body=body)
        return self._send(b"not here", status=404, body=body, error="RepoNotFound")

    def _send(self, content: bytes, *, body: bool, status: int = 200, error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("X-Error-Code", error)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _listing(hub: Hub, name: str, files: dict[str, bytes]) -> bytes:
    siblings = []
    for path, content in files.items():
        entry: dict[str, object] = {"rfilename": path, "size": len(content)}
        if path.endswith((".safetensors", ".parquet")):
            sha256 = "0" * 64 if path in hub.lied_about else hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 1}
        siblings.append(entry)
    return json.dumps({"id": name.partition("/")[2], "sha": REVISION, "siblings": siblings}).encode()


@pytest.fixture(scope="session")
def bundled_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pip that Python itself bundles, unpacked: out of its wheel each process would compile it anew."""
    bundled = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
    if not bundled:
        pytest.skip("this Python bundles no pip wheel")
    folder = tmp_path_factory.mktemp("pip")
    with zipfile.ZipFile(bundled[-1]) as wheel:
        wheel.extractall(folder)
    return folder


@pytest.fixture
def pip_folder(bundled_pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is pip's only source."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(bundled_pip))
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"):
        monkeypatch.delenv(name, raising=False)  # bytecode stays beside the unpacked pip, and goes with it
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def build_wheel(folder: Path, package: str, version: str, members: dict[str, bytes], *required: str) -> str:
    """Write a minimal wheel, which requires other packages, and return its sha256."""
    stem = f"{package.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in required)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{stem}.dist-info/METADATA", metadata)
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def make_wheel(pip_folder: Path) -> Callable[..., str]:
    return partial(build_wheel, pip_folder)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub address where nothing listens."""
    monkeypatch.setenv("HF_ENDPOINT", CLOSED_PORT)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
