"""Go's own quoting rules, checked against the go command's behaviour."""

import pytest

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
