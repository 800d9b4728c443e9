"""Who is answered by the served pages, and what a browser is told about each answer."""

from pathlib import Path

import pytest

from orchestrator.serve.guard import COOKIE, Access, is_loopback
from orchestrator.serve.server import address
from tests.serve.served import Client, client

ELSEWHERE = "0.0.0.0"  # noqa: S104  nothing is bound


@pytest.fixture
def loopback(tmp_path: Path) -> Client:
    return client(tmp_path)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/runs/x", "/none"])
def test_whatever_would_change_something_is_refused(loopback: Client, method: str, path: str) -> None:
    answer = loopback.request(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_head_is_a_page_without_its_text(loopback: Client) -> None:
    answer = loopback.request("HEAD", "/")
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["ETag"] == loopback.get("/").headers["ETag"]


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost", "LOCALHOST:1", "[::1]:9", "127.0.0.2"])
def test_loopback_is_called_by_its_own_names(loopback: Client, host: str) -> None:
    assert loopback.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8765", "192.0.2.7", "[2001:db8::1]", "", "["])
def test_a_name_that_was_pointed_here_by_somebody_else_is_refused(loopback: Client, host: str) -> None:
    answer = loopback.get("/", headers={"Host": host})
    assert answer.status_code == 403
    assert "not served under that name" in answer.text


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        (ELSEWHERE, False),
        ("::", False),
        ("no.such.invalid", False),
    ],
)
def test_loopback_is_what_nobody_else_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_token_is_made_where_others_could_ask_and_is_another_one_each_time() -> None:
    made = [Access.of(ELSEWHERE).token for _ in range(2)]
    assert None not in made
    assert len({*made}) == 2
    assert min(len(token or "") for token in made) >= 32
    assert Access.of("127.0.0.1").token is None
    assert Access.of("127.0.0.1", always=True).token is not None
    assert made[0] not in repr(Access(ELSEWHERE, made[0]))


def test_without_the_token_nothing_is_told(tmp_path: Path) -> None:
    ask = client(tmp_path / "secret-store", Access(ELSEWHERE, "t0ken"), "http://192.0.2.7:8765")
    for path, headers in [
        ("/", {}),
        ("/?token=", {}),
        ("/?token=t0ke", {}),
        ("/?token=t0ken%C3%A9", {}),
        ("/runs/x", {"Cookie": f"{COOKIE}=other"}),
        ("/", {"Cookie": f"{COOKIE}=\u00e9".encode()}),
        ("/none", {}),
    ]:
        answer = ask.get(path, headers=headers)
        assert answer.status_code == 403
        assert "secret-store" not in answer.text


def test_the_printed_address_gives_a_cookie_and_leaves_no_token_in_addresses(tmp_path: Path) -> None:
    access = Access(ELSEWHERE, "t0ken")
    printed = address("192.0.2.7", 8765, access)
    assert printed == "http://192.0.2.7:8765/?token=t0ken"
    ask = client(tmp_path, access, "http://192.0.2.7:8765")
    welcome = ask.get("/runs/x?state=failed&token=t0ken")
    assert (welcome.status_code, welcome.headers["Location"]) == (303, "/runs/x?state=failed")
    assert "HttpOnly" in welcome.headers["Set-Cookie"]
    assert "SameSite=lax" in welcome.headers["Set-Cookie"]
    assert ask.get("/").status_code == 200


def test_the_token_leads_to_no_other_host(tmp_path: Path) -> None:
    ask = client(tmp_path, Access(ELSEWHERE, "t0ken"), "http://192.0.2.7")
    assert ask.get("http://192.0.2.7//evil.example/?token=t0ken").headers["Location"] == "/evil.example/"


def test_an_address_of_version_6_stands_in_brackets() -> None:
    assert address("::1", 1, Access("::1")) == "http://[::1]:1/"


@pytest.mark.parametrize("path", ["/", "/none", "/runs/none/report"])
def test_every_page_keeps_other_sites_away(loopback: Client, path: str) -> None:
    headers = loopback.get(path).headers
    policy = headers["Content-Security-Policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert {"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} <= set(policy)
    assert not [part for part in policy if "unsafe" in part or "*" in part or "http" in part]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
