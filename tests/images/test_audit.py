"""`make audit`: what pip-audit says of the locks is judged by the allow list, and silence is no good answer."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from requirements.audit import ALLOWED, ROOT, all_locks, main, read_allowed, read_locks

LOCK = """\
alpha==1.0 \\
    --hash=sha256:aa
beta==2.0+cpu \\
    --hash=sha256:bb
"""
OTHER = "alpha==1.1 --hash=sha256:cc\n"
FOUND = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"], "description": "reads\nwhat it should not"}
PIP_AUDIT = """\
#!{python}
import json, sys
known = json.load(open({known!r}))
pins = [line.strip() for line in open(sys.argv[-1])]
assert len({{pin.split("==")[0] for pin in pins}}) == len(pins), "pip-audit takes one version of a package"
said = [dict(zip(("name", "version"), pin.split("=="))) for pin in pins]
for one, pin in zip(said, pins):
    one |= {{"vulns": known[pin]}} if pin in known else {{"skip_reason": "not there"}}
print(json.dumps({{"dependencies": said, "fixes": []}}))
sys.exit(any(known.values()))
"""
Audit = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Audit:
    """Runs it on `LOCK` and `OTHER` with a pip-audit that knows what it is told. Returns status and lines."""
    for name, text in {"one.txt": LOCK, "two.txt": OTHER}.items():
        (tmp_path / name).write_text(text)

    def run(known: dict[str, list[Any]], allowed: str = "") -> tuple[int, list[str]]:
        (tmp_path / "known.json").write_text(json.dumps(known))
        program = tmp_path / "pip-audit"
        program.write_text(PIP_AUDIT.format(python=sys.executable, known=str(tmp_path / "known.json")))
        program.chmod(0o755)
        (tmp_path / "allowed.toml").write_text(allowed)
        locks = [str(tmp_path / "one.txt"), str(tmp_path / "two.txt")]
        status = main([*locks, "--pip-audit", str(program), "--allowed", str(tmp_path / "allowed.toml")])
        said = capsys.readouterr()
        return status, [*said.out.splitlines(), *said.err.splitlines()]

    return run


def entry(**changes: str) -> str:
    said = {"id": "PYSEC-1", "package": "alpha", "reason": "nothing here calls it", "until": "2999-01-01"} | changes
    return "[[allowed]]\n" + "\n".join(
        f"{name} = {value if name == 'until' else json.dumps(value)}" for name, value in said.items()
    )


NOTHING: dict[str, list[Any]] = {"alpha==1.0": [], "alpha==1.1": [], "beta==2.0": []}
ONE = NOTHING | {"alpha==1.0": [FOUND]}


def test_all_versions_of_all_locks_are_asked_for_and_builds_by_their_version(audit: Audit) -> None:
    assert audit(NOTHING) == (0, ["3 packages of 2 locks, of which the service does not know 0"])


def test_what_is_found_is_open_with_its_names_its_lock_and_what_mends_it(audit: Audit, tmp_path: Path) -> None:
    status, lines = audit(ONE)
    assert status == 1
    where = f"alpha 1.0 ({tmp_path}/one.txt)"
    assert lines[0] == f"OPEN: {where}: PYSEC-1, CVE-1, mended in 1.1: reads what it should not"


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-1"])
def test_it_may_stand_in_the_list_with_a_reason_and_a_day(audit: Audit, name: str) -> None:
    status, lines = audit(ONE, entry(id=name))
    assert status == 0
    assert lines[0].startswith("allowed: alpha 1.0 ")
    assert lines[0].endswith("; allowed until 2999-01-01: nothing here calls it")


@pytest.mark.parametrize(
    ("known", "allowed", "words"),
    [
        (ONE, entry(until="2020-01-01"), "allowed until 2020-01-01, which is over"),
        (ONE, entry(package="beta"), "PYSEC-1, CVE-1, mended in 1.1"),
        (NOTHING, entry(), "PYSEC-1 is allowed and was not found: take it out"),
        ({"alpha==1.0": [], "alpha==1.1": []}, "", "not there"),
    ],
)
def test_what_is_over_of_another_package_not_found_or_unknown_is_open(
    audit: Audit, known: dict[str, list[Any]], allowed: str, words: str
) -> None:
    status, lines = audit(known, allowed)
    assert status == 1
    assert [line for line in lines if line.startswith("OPEN") and words in line]


def test_a_package_that_no_service_can_know_may_be_allowed(audit: Audit) -> None:
    known = {"alpha==1.0": [], "alpha==1.1": []}
    assert audit(known, entry(id="unknown", package="beta"))[0] == 0


@pytest.mark.parametrize(
    ("known", "allowed", "words"),
    [
        ({}, "", "the service knows none of the packages"),
        (NOTHING, entry(reason="short"), "allowed.toml is not valid: allowed.0.reason: "),
        (NOTHING, entry(until='"soon"'), "allowed.toml is not valid"),
        (NOTHING, "[[allowed", "allowed.toml is not valid"),
        ({"alpha==1.0": "no list"}, "", "pip-audit has no answer"),
    ],
)
def test_what_cannot_be_asked_for_is_no_audit(audit: Audit, known: dict[str, Any], allowed: str, words: str) -> None:
    status, lines = audit(known, allowed)
    assert status == 2
    assert lines[-1].startswith("not audited: ")
    assert words in lines[-1]


def test_without_pip_audit_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text(LOCK)
    assert main([str(tmp_path / "one.txt"), "--pip-audit", str(tmp_path / "nothing")]) == 2
    assert "cannot be run: No such file" in capsys.readouterr().err


def test_every_lock_of_the_project_is_read_and_the_list_is_valid() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in all_locks()}
    assert {"requirements/audit.txt", "requirements/dev.txt", "images/vllm/locks/cuda.txt"} <= names
    assert len(names) == sum(1 for _ in ROOT.glob("requirements/*.txt")) + sum(1 for _ in ROOT.glob("images/*/locks/*"))
    read = read_locks(all_locks())
    assert len(read[("torch", "2.13.0")]) > 3
    assert not [version for _, version in read if "+" in version]
    read_allowed(ALLOWED)


class _Service(BaseHTTPRequestHandler):
    """Speaks OSV's protocol: one vulnerability of mkdocs, and none of anything else."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        events = [{"introduced": "0"}, {"fixed": "9.9"}]
        affected = [{"package": asked["package"], "ranges": [{"type": "ECOSYSTEM", "events": events}]}]
        known = {"id": "PYSEC-2", "aliases": ["CVE-2"], "summary": "an example", "affected": affected}
        answer = json.dumps({"vulns": [known]} if asked["package"]["name"] == "mkdocs" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


@pytest.mark.network
def test_pip_audit_itself_is_asked_and_heard(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "-q", tmp_path / "venv"], check=True)
    environment = {**os.environ, "VIRTUAL_ENV": str(tmp_path / "venv")}
    command = [uv, "pip", "install", "-q", "--require-hashes", "-r", ROOT / "requirements" / "audit.txt"]
    made = subprocess.run(command, env=environment, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"pip-audit cannot be had: {made.stderr.strip().splitlines()[-1]}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    asked = [str(ROOT / "requirements" / "docs.txt"), "--pip-audit", str(tmp_path / "venv" / "bin" / "pip-audit")]

    status = main([*asked, "--osv-url", service])

    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert lines[0].startswith("OPEN: mkdocs ")
    assert "PYSEC-2, CVE-2, mended in 9.9: an example" in lines[0]
    assert lines[1:] == [lines[-1]]
    assert lines[-1].endswith("of which the service does not know 0")
