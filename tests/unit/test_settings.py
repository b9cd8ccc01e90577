"""Go-style flags, from the table alone."""

from typing import Any

import pytest

from vimto.config import Config
from vimto.errors import UsageError
from vimto.settings import SETTINGS, parse_flags


@pytest.mark.parametrize(
    ("words", "flags", "rest"),
    [
        ("", {}, ""),
        ("go test", {}, "go test"),
        ("-kernel X go test", {"kernel": "X"}, "go test"),
        ("-kernel=X go test", {"kernel": "X"}, "go test"),
        ("--kernel X -- go test", {"kernel": "X"}, "go test"),
        ("--kernel=a=b", {"kernel": "a=b"}, ""),
        ("-kernel= go", {"kernel": ""}, "go"),
        ("-kernel -x go", {"kernel": "-x"}, "go"),
        ("-sudo exec id", {"sudo": True}, "exec id"),
        ("-sudo=false exec", {"sudo": False}, "exec"),
        ("-no-snapshot exec", {"snapshot": False}, "exec"),
        ("-no-snapshot=false exec", {"snapshot": True}, "exec"),
        ("-v exec -v", {"verbose": 1}, "exec -v"),
        ("-v -v --v exec", {"verbose": 3}, "exec"),
        ("-v=2 exec", {"verbose": 2}, "exec"),
        ("-share a -share=b:ro exec", {"share": ("a", "b:ro")}, "exec"),
        ("-memory 2G -memory 1G -smp cpus=3 x", {"memory": 1024, "smp": 3}, "x"),
        ("-boot-timeout 2m x", {"boot_timeout": 120.0}, "x"),
        ("-- -v", {}, "-v"),
        ("-v -- -- x", {"verbose": 1}, "-- x"),
        ("-v -h", {"verbose": 1}, "-h"),
        ("--help", {}, "--help"),
        ("-version", {}, "-version"),
        ("- x", {}, "- x"),
    ],
)
def test_parse_flags(words: str, flags: dict[str, Any], rest: str) -> None:
    assert parse_flags(words.split()) == (flags, rest.split())


def test_commands_are_split_and_collected() -> None:
    flags, _ = parse_flags(["-setup", "mount -t 'a b' x", "-setup=dmesg --clear", "-setup", ""])
    assert flags == {"setup": (("mount", "-t", "a b", "x"), ("dmesg", "--clear"), ())}


def test_flags_continue_earlier_ones() -> None:
    given, _ = parse_flags(["-v", "-share", "a", "-kernel", "x"])
    flags, rest = parse_flags(["-v", "-share", "b", "-kernel", "y", "--", "id"], given)
    assert flags == {"verbose": 2, "share": ("a", "b"), "kernel": "y"}
    assert rest == ["id"]
    assert given == {"verbose": 1, "share": ("a",), "kernel": "x"}


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("-kernal X", "unknown flag `-kernal`", "did you mean `-kernel`?"),
        ("--mem=1G", "unknown flag `--mem`", ""),
        ("-race", "unknown flag `-race`", ""),
        ("-no-kernel", "unknown flag `-no-kernel`", ""),
        ("-kernel", "`-kernel` needs a value: `-kernel KERNEL`", ""),
        ("-memory lots", "`-memory`: `lots` is not a size", ""),
        ("-sudo=perhaps", "`-sudo`: `perhaps` is neither", ""),
        ("-accel=xen", "`-accel`: `xen` is not one of `auto`, `kvm`, `tcg`", ""),
    ],
)
def test_parse_flags_refuses(words: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_flags(words.split())
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_each_row_is_a_field_and_has_its_own_names() -> None:
    own = {"configured_kernel", "kernel_directories", "foreign_kernel"}
    own |= {"file", "user_file", "origins"}
    assert {row.key for row in SETTINGS} == set(Config._fields) - own
    names = [name for row in SETTINGS for name in row.flags]
    assert len(names) == len(set(names))
