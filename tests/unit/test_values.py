"""Every way to write a value, and back."""

import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from vimto import values
from vimto.settings import SETTINGS


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.parse_memory, "1G", 1024),
        (values.parse_memory, "1024M", 1024),
        (values.parse_memory, "size=1G", 1024),
        (values.parse_memory, "1GiB", 1024),
        (values.parse_memory, "2048m", 2048),
        (values.parse_memory, "512", 512),
        (values.parse_memory, 512, 512),
        (values.parse_memory, "size=512", 512),
        (values.parse_smp, "2", 2),
        (values.parse_smp, "cpus=4", 4),
        (values.parse_smp, 1, 1),
        (values.parse_bytes, "4G", 4 << 30),
        (values.parse_bytes, "100k", 100 << 10),
        (values.parse_bytes, "1KiB", 1 << 10),
        (values.parse_bytes, 0, 0),
        (values.parse_duration, "30s", 30.0),
        (values.parse_duration, "2m", 120.0),
        (values.parse_duration, "1h30m", 5400.0),
        (values.parse_duration, "1.5s", 1.5),
        (values.parse_duration, "500ms", 0.5),
        (values.parse_duration, "90", 90.0),
        (values.parse_duration, 0, 0.0),
        (values.parse_duration, 2.5, 2.5),
        (values.parse_bool, "true", True),
        (values.parse_bool, "0", False),
        (values.parse_bool, False, False),
        (values.parse_count, "2", 2),
        (values.parse_count, "true", 1),
        (values.parse_list, "a b", ("a b",)),
        (values.parse_list, ["a", "b"], ("a", "b")),
        (values.parse_commands, "sh -c 'a b'", (("sh", "-c", "a b"),)),
        (values.parse_commands, ["a b", ["c", "d e"]], (("a", "b"), ("c", "d e"))),
        (values.parse_commands, "", ((),)),
    ],
)
def test_parse(parse: Callable[[object], Any], text: object, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (values.parse_memory, "1X", "no size"),
        (values.parse_memory, "", "no size"),
        (values.parse_memory, "size=1G,slots=2", "more than a size"),
        (values.parse_memory, "1G,maxmem=2G", "more than a size"),
        (values.parse_memory, "64M", "too little"),
        (values.parse_memory, "1500K", "whole number"),
        (values.parse_memory, True, "no size"),
        (values.parse_memory, 1.5, "no size"),
        (values.parse_smp, "0", "no number of CPUs"),
        (values.parse_smp, "cpus=2,sockets=1", "no number of CPUs"),
        (values.parse_smp, True, "no number of CPUs"),
        (values.parse_bytes, -1, "no size"),
        (values.parse_bytes, "²", "no size"),
        (values.parse_duration, "1d", "no duration"),
        (values.parse_duration, "", "no duration"),
        (values.parse_duration, "-1s", "no duration"),
        (values.parse_duration, "1.2.3s", "no duration"),
        (values.parse_duration, -1, "no duration"),
        (values.parse_duration, float("inf"), "no duration"),
        (values.parse_duration, True, "no duration"),
        (values.parse_bool, "maybe", "neither"),
        (values.parse_bool, 1, "neither"),
        (values.parse_count, "x", "no number"),
        (values.parse_count, -1, "no number"),
        (values.parse_text, 3, "no string"),
        (values.parse_text, "a\0b", "NUL"),
        (values.parse_list, ["a", 1], "no string"),
        (values.parse_commands, "sh -c 'x", "no closing quotation"),
        (values.parse_commands, [[]], "empty command"),
        (values.parse_choice("a", "b"), "c", "none of `a`, `b`"),
        (values.parse_choice("a"), ["a"], "none of"),
    ],
)
def test_parse_refuses(parse: Callable[[object], Any], text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.key)
def test_a_default_is_what_its_own_text_means(row: Any) -> None:
    text = values.show_value(row.parse, row.default)
    assert row.parse(tomllib.loads(f"x = {text}")["x"]) == row.default


@pytest.mark.parametrize(
    ("parse", "value", "text"),
    [
        (values.parse_memory, 1536, '"1536M"'),
        (values.parse_bytes, 1000, '"1000"'),
        (values.parse_bytes, 5 << 20, '"5M"'),
        (values.parse_duration, 90.0, '"90s"'),
        (values.parse_duration, 0.25, '"0.25s"'),
        (values.parse_text, 'a "b"\\\n\x7f', r'"a \"b\"\\\n\u007f"'),
        (values.parse_commands, (("a", "b c"),), '[["a", "b c"]]'),
    ],
)
def test_show_value(parse: Callable[[object], Any], value: object, text: str) -> None:
    assert values.show_value(parse, value) == text
    assert parse(tomllib.loads(f"x = {text}")["x"]) == value
