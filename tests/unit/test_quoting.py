"""Go's own quoting rules, checked against the go command's behaviour."""

import os
import subprocess
import sys
import unicodedata

import pytest

from tests.conftest import need
from vimto import quoting


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  a  b ", ["a", "b"]),
        ("a'b c", ["a'b", "c"]),
        ("'a b' c", ["a b", "c"]),
        ('"it\'s" x', ["it's", "x"]),
        ("a\\ b", ["a\\", "b"]),
        ("'a'b", ["a", "b"]),
    ],
)
def test_split_go(text: str, words: list[str]) -> None:
    assert quoting.split_go(text) == words


def test_split_go_refuses_an_open_quote() -> None:
    with pytest.raises(ValueError, match="unterminated"):
        quoting.split_go("'a")


@pytest.mark.parametrize(
    "words",
    [["a"], ["a b"], ["it's a"], ['"x"'], ["'x'"], [""], ["a'b\"c"], ["a\tb", "-c", "x=y z"]],
)
def test_quote_go_is_undone_by_split_go(words: list[str]) -> None:
    assert quoting.split_go(quoting.quote_go(words)) == words


def test_quote_go_refuses_what_go_cannot_read() -> None:
    with pytest.raises(ValueError, match="cannot be quoted"):
        quoting.quote_go(["both ' and \" and a blank"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Grüße, 世界 🙂", "Grüße, 世界 🙂"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2J\x00\x08\x7f", "\\x1b[2J\\x00\\x08\\x7f"),
        ("\r\x9b31m\x85", "\\r\\x9b31m\\x85"),  # C1: a terminal may take one as an escape
        ("\u202etxt.exe\u2066\u200f\u061c", "\\u202etxt.exe\\u2066\\u200f\\u061c"),
        ("\u2028\u2029\ufeff\u200b", "\\u2028\\u2029\\ufeff\\u200b"),
        ("\U000e0041", "\\U000e0041"),
        (os.fsdecode(b"\xff\x9b"), "\\xff\\x9b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert quoting.visible(text) == shown


def test_no_character_that_acts_is_left() -> None:
    for code in range(sys.maxunicode + 1):
        shown = quoting.visible(chr(code), keep="")
        assert all(
            unicodedata.category(char) not in ("Cc", "Cf", "Zl", "Zp", "Cs") for char in shown
        )


def test_a_shell_reads_what_is_shown() -> None:
    need("bash")
    words = ["a b", "it's", "\x1b[2J'\\x\n\r", os.fsdecode(b"\xff\x9b"), "\u202eé", "", "$x"]
    line = quoting.show(words)
    assert line.isprintable()
    script = ["bash", "-c", f"printf '%s\\0' {line}"]
    done = subprocess.run(script, stdout=subprocess.PIPE, check=True)
    assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == words
