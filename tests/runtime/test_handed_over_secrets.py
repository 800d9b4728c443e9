"""What a worker was given and must not be read in its logs: which that is, and that none of it gets through."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime.handed_over import MARK, Redaction, handed_over
from orchestrator.runtime.reach import Reach
from orchestrator.runtime.stream import EventStream
from tests.runtime.test_what_a_worker_prints import RESULT, line

SECRETS = ["hf_abcabd", "abab", "pass\"word'ü"]
TEXTS = st.lists(st.sampled_from([*SECRETS, "hf_", "abc", "ab", "a", "\n", "x", 'pass"']), max_size=12).map("".join)


@given(TEXTS, st.lists(st.integers(0, 60)))
def test_no_secret_gets_through_however_the_text_is_cut(text: str, cuts: list[int]) -> None:
    data = text.encode()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    redaction = Redaction(SECRETS)

    pieces = [redaction.feed(data[begin:end]) for begin, end in pairwise(places)]
    shown = b"".join([*pieces, redaction.end()])

    assert not [secret for secret in SECRETS if secret.encode() in shown]
    if not any(secret in text for secret in SECRETS):
        assert shown == data


@given(TEXTS)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert Redaction().whole(text.encode()) == text.encode()


def test_a_secret_is_found_as_json_writes_it() -> None:
    for ascii_only in (True, False):
        said = json.dumps({"message": f"<{SECRETS[2]}>"}, ensure_ascii=ascii_only).encode()
        assert Redaction(SECRETS).whole(said) == b'{"message": "<' + MARK + b'>"}'


def test_a_result_that_holds_a_secret_breaks_the_contract(tmp_path: Path) -> None:
    said = {**RESULT, "result": {**RESULT["result"], "notes": ["by hf_abcabd"]}}  # type: ignore[dict-item]
    with EventStream(tmp_path / "events.jsonl", lambda event: None, SECRETS) as found:
        found.feed(line(said))

    assert (found.final, found.violation) == (None, "its result holds a secret that it was given")
    assert b"hf_abcabd" not in (tmp_path / "events.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("reach", "secrets"),
    [
        (Reach.NOTHING, set()),
        (Reach.PACKAGES, {"pass%20word", "pass word", "ATokenAlone", "proxies"}),
        (Reach.HUB, {"pass%20word", "pass word", "ATokenAlone", "proxies", "hf_token", "hf_another"}),
    ],
)
def test_they_are_those_that_the_reach_gives(monkeypatch: pytest.MonkeyPatch, reach: Reach, secrets: set[str]) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name, value in {
        "PIP_INDEX_URL": "https://somebody:pass%20word@packages.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://ATokenAlone@packages.example/simple https://packages.example/open",
        "PIP_FIND_LINKS": "https://x:abc@packages.example/links",
        "HTTPS_PROXY": "http://me:proxies@proxy.example:3128",
        "HF_TOKEN": "hf_token",
        "HUGGING_FACE_HUB_TOKEN": "hf_another",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)

    assert handed_over(reach) == secrets
