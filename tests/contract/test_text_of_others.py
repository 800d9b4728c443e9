"""No control character that somebody else wrote reaches a terminal, a report or a log."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract.text import escaped, one_line, plain_lines, showable, unshowable, unshowable_in

ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.text(
    "\x00\x07\x1b\x7f\x85\x9b\n\r\t\u2028\u202e\u2066\ud800ab"
)
TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def controls(text: str) -> set[str]:
    return {one for one in text if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one in TURNING}


@given(ANY_TEXT)
def test_one_line_and_plain_lines_hold_no_control_characters(text: str) -> None:
    assert controls(one_line(text)) == set()
    assert controls(escaped(text)) == set()
    assert controls(plain_lines(text)) <= {"\n", "\t"}
    assert (unshowable(text) is None) == (not controls(text))


@given(ANY_TEXT)
def test_text_without_any_stays_as_it_is(text: str) -> None:
    if not controls(text):
        assert one_line(text) == escaped(text) == plain_lines(text) == text


def test_the_fields_that_hold_some_are_named() -> None:
    document = {"notes": ["two\nlines", "clear\x1b[2J"], "libraries": {"torch\x9b": "1"}, "device": "\u202eevil"}
    assert list(unshowable_in(document)) == [
        ("notes.1", "the control character U+001B"),
        ("libraries.torch\\u009b", "the control character U+009B"),
        ("device", "the control character U+202E"),
    ]
    assert list(unshowable_in(showable(document))) == []
    assert showable(document)["notes"] == ["two lines", "clear[2J"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\r\nb\vc", "a b c"), ("x" * 30, "x" * 20 + "… (10 more characters)"), ("\x1b]0;title\x07", "]0;title")],
)
def test_one_line_is_one_line_of_bounded_length(text: str, shown: str) -> None:
    assert one_line(text, 20) == shown
