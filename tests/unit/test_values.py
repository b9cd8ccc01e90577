"""Every way to write a value, and back."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
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
        (values.parse_memory, "size=256M,slots=2", 256),
        (values.parse_memory, "1G,maxmem=2G", 1024),
        (values.parse_memory, "96M", 128),
        (values.parse_smp, "2", 2),
        (values.parse_smp, "cpus=4", 4),
        (values.parse_smp, "cpus=2,cores=2", 2),
        (values.parse_smp, "4,sockets=1,cores=4,threads=1,maxcpus=4", 4),
        (values.parse_smp, "sockets=2,cores=2,threads=1", 4),
        (values.parse_smp, "maxcpus=3", 3),
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
        (values.parse_duration, "0s", 0.0),
        (values.parse_duration, "0h0m", 0.0),
        (values.parse_duration, "720h", 2592000.0),
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
        (values.parse_memory, "1X", "not a size"),
        (values.parse_memory, "", "not a size"),
        (values.parse_memory, "1G,share=on", "`size=` counts, and `maxmem=`, `slots=` may stand"),
        (values.parse_memory, "slots=2", "not a size"),
        (values.parse_memory, "63M", "too little"),
        (values.parse_memory, 10**30, "more than any machine"),
        (values.parse_memory, "٣٠٠", "not a size"),
        (values.parse_memory, "1500K", "not a whole number"),
        (values.parse_memory, True, "not a size"),
        (values.parse_memory, 1.5, "not a size"),
        (values.parse_smp, "0", "not a number of CPUs"),
        (values.parse_smp, "", "not a number of CPUs"),
        (values.parse_smp, "²", "not a number of CPUs"),
        (values.parse_smp, "٢", "not a number of CPUs"),
        (values.parse_smp, "cpus=2,cores=", "not a number of CPUs"),
        (values.parse_smp, "cpus=2,cores=x", "not a number of CPUs"),
        (values.parse_smp, "2,threads", "not a number of CPUs"),
        (values.parse_smp, "cpus=2,speed=9", "holds `speed=9`"),
        (values.parse_smp, "9" * 5000, "not a number of CPUs"),
        (values.parse_smp, True, "not a number of CPUs"),
        (values.parse_bytes, -1, "not a size"),
        (values.parse_bytes, "²", "not a size"),
        (values.parse_bytes, "٤G", "not a size"),
        (values.parse_bytes, "9" * 5000, "not a size"),
        (values.parse_bytes, "999999999999999999T", "not a size"),
        (values.parse_bytes, 1 << 63, "not a size"),
        (values.parse_duration, "1d", "not a duration"),
        (values.parse_duration, "", "not a duration"),
        (values.parse_duration, "-1s", "not a duration"),
        (values.parse_duration, "1.2.3s", "not a duration"),
        (values.parse_duration, -1, "not a duration"),
        (values.parse_duration, "9" * 400, "not a duration"),
        (values.parse_duration, "9" * 400 + "h", "not a duration"),
        (values.parse_duration, 10**400, "not a duration"),
        (values.parse_duration, float("nan"), "not a duration"),
        (values.parse_duration, "٣s", "not a duration"),
        (values.parse_duration, float("inf"), "not a duration"),
        (values.parse_duration, True, "not a duration"),
        (values.parse_bool, "maybe", "neither"),
        (values.parse_bool, 1, "neither"),
        (values.parse_count, "x", "not a number"),
        (values.parse_count, -1, "not a number"),
        (values.parse_count, "²", "not a number"),
        (values.parse_count, "9" * 5000, "not a number"),
        (values.parse_text, 3, "not a string"),
        (values.parse_text, "a\0b", "NUL"),
        (values.parse_list, ["a", 1], "not a string"),
        (values.parse_shares, ["a:ro", ":ro"], "no directory"),
        (values.parse_commands, "sh -c 'x", "no closing quotation"),
        (values.parse_commands, [[]], "empty command"),
        (values.choice("a", "b").parse, "c", "not one of `a`, `b`"),
        (values.choice("a").parse, ["a"], "not one of"),
    ],
)
def test_parse_refuses(parse: Callable[[object], Any], text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.key)
def test_a_default_is_what_its_own_text_means(row: Any) -> None:
    text = row.kind.show(row.default)
    assert row.kind.parse(tomllib.loads(f"x = {text}")["x"]) == row.default


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (values.MEMORY, 1536, '"1536M"'),
        (values.MEMORY, 2048, '"2G"'),
        (values.BYTES, 1000, '"1000"'),
        (values.BYTES, 5 << 20, '"5M"'),
        (values.DURATION, 90.0, '"90s"'),
        (values.DURATION, 7200.0, '"2h"'),
        (values.DURATION, 0.25, '"0.25s"'),
        (values.TEXT, 'a "b"\\\n\x7f', r'"a \"b\"\\\n\u007f"'),
        (values.SWITCH, True, "true"),
        (values.TEXTS, ("a", "b"), '["a", "b"]'),
        (values.COMMANDS, (("a", "b c"),), '[["a", "b c"]]'),
    ],
)
def test_what_a_kind_shows_it_parses(kind: values.Kind, value: object, text: str) -> None:
    assert kind.show(value) == text
    assert kind.parse(tomllib.loads(f"x = {text}")["x"]) == value


def test_nobody_asks_a_row_what_kind_it_is() -> None:
    # A new kind is one row here: whatever differs by kind is an attribute of it.
    sources = Path(values.__file__).parent.rglob("*.py")
    asking = re.compile(
        r"\.(parse|kind)(\.flag)? (is|is not|==|in) (parse_|values\.|[A-Z]+\b(?!\.))"
    )
    found = [path.name for path in sources if asking.search(path.read_text())]
    assert found == []


def test_a_user_is_a_name_or_a_number() -> None:
    assert values.parse_user("nobody") == "nobody" and values.parse_user("1000") == "1000"
    assert values.parse_user(1000) == "1000"
    with pytest.raises(ValueError, match="not a string"):
        values.parse_user(True)
