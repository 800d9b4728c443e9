"""A worker's stdout and stderr are bounded and free of control characters; the first break of the contract ends it."""

import json
from pathlib import Path

import pytest

from harness.contract import EVENT, Event, Log, LogLevel, Progress
from orchestrator.runtime import stream
from orchestrator.runtime.stream import EventStream, TextLog

NASTY = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\x00 one\r\n two\nFAKE LINE"
SHOWN = "]0;title[2J31m one  two FAKE LINE"
ERROR = {"event": "error", "id": "s", "code": "internal", "message": "m", "hint": "h"}
RESULT = {
    "event": "result",
    "id": "s",
    "result": {
        "operation": "profile", "disk_bytes": 1, "weight_bytes": 1, "parameter_count": 1, "macs_tokens": 1,
        "memory": {"peak_memory_bytes": 1, "method": "peak-rss"}, "kv_cache_bytes": 0, "protocol": "p",
        "dtype": "float32", "dtype_reason": "r", "notes": ["a note\nof two lines"],
    },
    "environment": {
        "harness_digest": "0", "python": "3", "platform": "p", "device_kind": "cpu", "device_model": "m", "threads": 1,
        "libraries": {},
    },
    "wall_seconds": 1.0,
}  # fmt: skip


def line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def heard(path: Path, *pieces: bytes) -> tuple[EventStream, list[Event]]:
    events: list[Event] = []
    with EventStream(path / "events.jsonl", events.append) as found:
        for piece in pieces:
            found.feed(piece)
    return found, events


def log(message: str) -> dict[str, str]:
    return {"event": "log", "message": message}


def test_events_come_cut_anywhere(tmp_path: Path) -> None:
    text = line(log("one")) + b"\n" + line(RESULT)
    found, events = heard(tmp_path, *(text[place : place + 1] for place in range(len(text))))
    assert [type(event).__name__ for event in events] == ["Log", "ResultEvent"]
    assert found.final == events[1]
    assert (found.is_broken, found.has_answered, found.heard_bytes) == (False, True, len(text))


def test_what_is_shown_of_events_is_one_line_without_control_characters(tmp_path: Path) -> None:
    said = [log(NASTY), {"event": "progress", "done": 1, "unit": NASTY}, {"event": "telemetry", "readings": {NASTY: 1}}]
    found, events = heard(tmp_path, *map(line, said), line({**ERROR, "message": NASTY, "hint": NASTY}))
    assert events[:2] == [Log(message=SHOWN), Progress(done=1, unit=SHOWN)]
    assert events[2].readings == {SHOWN: 1.0}  # type: ignore[union-attr]
    assert (events[3].message, events[3].hint) == (SHOWN, SHOWN)  # type: ignore[union-attr]
    assert not found.is_broken


@pytest.mark.parametrize("letter", ["\x00", "\x1b", "\x7f", "\x9b", "\u202e", "\u2028"])
@pytest.mark.parametrize("field", ["device_model", "platform"])
def test_a_result_with_control_characters_breaks_the_contract_and_the_field_is_named(
    tmp_path: Path, letter: str, field: str
) -> None:
    said = {**RESULT, "environment": {**RESULT["environment"], field: f"evil{letter}"}}  # type: ignore[dict-item]
    found, events = heard(tmp_path, line(said))
    assert (
        found.violation
        == f"environment.{field} holds the control character U+{ord(letter):04X}, which no text may hold"
    )
    assert (found.final, events) == (None, [])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_breaks_the_contract_and_the_field_is_named(tmp_path: Path, number: str) -> None:
    found, _ = heard(tmp_path, line(RESULT).replace(b'"wall_seconds": 1.0', b'"wall_seconds": ' + number.encode()))
    assert found.violation is not None
    assert found.violation.startswith("a line that is no event (wall_seconds: Input should be a finite number")


def test_nothing_after_the_first_break_is_kept_or_heard(tmp_path: Path) -> None:
    found, events = heard(tmp_path, b"noise\x1b[2J\n" + line(log("after")), b"x\n" * 500_000, line(RESULT))
    assert found.violation is not None
    assert found.violation.endswith(": 'noise\\\\u001b[2J'")
    assert (found.final, events) == (None, [])
    kept = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert len(kept) == 2
    assert json.loads(kept[1])["message"].endswith(" bytes of stdout were left out here")


def test_beyond_the_bound_events_are_left_out_and_the_answer_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_KEPT_BYTES", 1000)
    one = line(log("x" * 100))
    found, events = heard(tmp_path, one * 5000, line(RESULT))
    kept = [EVENT.validate_json(text) for text in (tmp_path / "events.jsonl").read_bytes().splitlines()]
    shown = 1000 // len(one)
    assert len(events) == shown + 1
    left_out = Log(level=LogLevel.WARNING, message=f"{(5000 - shown) * len(one)} bytes of stdout were left out here")
    assert kept == [*events[:shown], left_out, events[-1]]
    assert found.final == events[-1]


def test_a_line_without_an_end_is_not_collected_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_LINE_BYTES", 2**20)
    found, _ = heard(tmp_path, *[b"x" * 2**16] * 40)
    assert found.violation == "a line of more than 1 MiB"
    assert (tmp_path / "events.jsonl").stat().st_size < 2**17


def test_a_long_message_is_shown_by_its_beginning(tmp_path: Path) -> None:
    _, events = heard(tmp_path, line(log("A" * 5_000_000)))
    assert events == [Log(message="A" * 2000 + "… (4998000 more characters)")]


def stderr(path: Path, *pieces: bytes) -> str:
    with (path / "stderr.log").open("wb") as file, TextLog(file) as found:
        for piece in pieces:
            found.feed(piece)
    return (path / "stderr.log").read_text(encoding="utf-8")


def test_stderr_is_text_without_control_characters_however_it_is_cut(tmp_path: Path) -> None:
    text = "10%\r20%\r\nön \x1b[31mred\x1b[0m\u202e\ttab\n".encode() + b"\xff\n"
    shown = "10%\n20%\nön �[31mred�[0m�\ttab\n�\n"
    assert stderr(tmp_path, text) == shown
    assert stderr(tmp_path, *(text[place : place + 1] for place in range(len(text)))).replace("\n\n", "\n") == shown


def test_of_much_stderr_the_beginning_and_the_last_words_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_KEPT_BYTES", 1000)
    text = stderr(tmp_path, b"first\n", *[b"e" * 2**16] * 40, b"\nlast words\n")
    assert text.startswith("first\n")
    assert text.endswith("\nlast words\n")
    assert len(text) < 200_000
    assert "bytes of stderr were left out here]" in text
