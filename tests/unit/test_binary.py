"""Test binaries by themselves, with the real go."""

import os
from pathlib import Path

import pytest

from tests.conftest import need
from vimto.errors import CommandError, UsageError
from vimto.go import binary as binaries
from vimto.go.args import parse_go
from vimto.go.binary import build_test, list_test_packages


def make_module(root: Path) -> None:
    (root / "go.mod").write_text("module example.org/m\n\ngo 1.21\n")
    for name, text in (
        ("a/a_test.go", "package a\n"),
        ("b/b.go", "package b\n"),
        ("c/c_test.go", "//go:build special\n\npackage c_test\n"),
        ("c/c.go", "package c\n"),
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)


def test_packages_with_tests(tmp_path: Path) -> None:
    need("go")
    make_module(tmp_path)
    for words, expected in (
        ("./...", ["example.org/m/a"]),
        ("-tags special ./...", ["example.org/m/a", "example.org/m/c"]),
    ):
        command = parse_go(["go", "test", *words.split()])
        found = list_test_packages("go", command, str(tmp_path), os.environ)
        assert [package.path for package in found] == expected
    assert found[0].directory == str(tmp_path / "a") and found[0].binary_name == "a.test"
    with pytest.raises(UsageError, match="no test files in"):
        list_test_packages("go", parse_go(["go", "test", "./b"]), str(tmp_path), os.environ)
    with pytest.raises(CommandError):
        list_test_packages("go", parse_go(["go", "test", "./x"]), str(tmp_path), os.environ)


def test_a_directory_whose_name_looks_like_the_end_of_a_line(tmp_path: Path) -> None:
    need("go")
    module = tmp_path / "a\u2028b\x0c"
    module.mkdir()
    make_module(module)
    command = parse_go(["go", "test", "./a"])
    (package,) = list_test_packages("go", command, str(module), os.environ)
    assert package.directory == str(module / "a")


def test_a_binary_is_built_and_started_as_go_does(tmp_path: Path) -> None:
    need("go")
    make_module(tmp_path)
    command = parse_go(["go", "test", "-v", "-o", "no", "-count=2", "./a", "-args", "-x"])
    (package,) = list_test_packages("go", command, str(tmp_path), os.environ)
    binary, status = build_test("go", command, package, tmp_path, str(tmp_path))
    assert status == 0 and binary == tmp_path / "a.test" and os.access(binary, os.X_OK)
    assert binaries.test_words(command, binary) == [
        str(binary),
        "-test.paniconexit0=true",
        "-test.timeout=10m0s",
        "-test.v=true",
        "-test.count=2",
        "-x",
    ]
    _, status = build_test("go", command, package, tmp_path, str(tmp_path), ["-toolexec=false"])
    assert status != 0  # go starts its tools through it
    limited = parse_go(["go", "test", "-timeout", "5s", "./a"])
    assert binaries.test_words(limited, binary)[1:] == [
        "-test.paniconexit0=true",
        "-test.timeout=5s",
    ]
