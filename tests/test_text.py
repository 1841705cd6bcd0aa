"""Text: nothing in a stranger's string acts on a terminal."""

import sys
import unicodedata

import pytest

from bench.text import plain

UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def test_no_character_that_acts_is_ever_left() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for start in range(0, len(every), 1000):
        shown = plain(every[start : start + 1000], limit=100_000)
        assert not [char for char in shown if unicodedata.category(char) in UNSAFE]
        shown.encode()  # no surrogate is left, so it can be printed


def test_what_people_write_is_left_alone() -> None:
    for text in ("NVIDIA H100 80GB HBM3", "AMD Instinct™ MI300X", "昇腾 910B", "Gerät ±5 %, 3 µs", "a|b <c> =1+1"):
        assert plain(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u2066b\u200bc\ufeff", "a\\u2066b\\u200bc\\ufeff"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("\0", "\\x00"),
    ],
)
def test_what_acts_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_long_text_is_cut_where_it_says() -> None:
    assert plain("x" * 200) == "x" * 200
    assert plain("x" * 201) == "x" * 199 + "…"
    assert len(plain("\x1b" * 10**5)) == 200
    assert plain("abc", limit=2) == "a…"
