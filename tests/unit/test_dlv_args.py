"""The dlv command line, and what becomes of it in a machine."""

import pytest

from vimto.errors import UsageError
from vimto.go.delve import DlvCommand, parse_dlv, split_build_flags


def parse(text: str) -> DlvCommand:
    return parse_dlv(text.split())


@pytest.mark.parametrize(
    ("text", "operands", "program"),
    [
        ("test", (), None),
        ("test ./pkg -- -test.run X", ("./pkg",), ("-test.run", "X")),
        ("test --output o ./pkg --log", ("./pkg",), None),
        ("--headless -l :1 debug main.go", ("main.go",), None),
        ("-l=:1 debug . --", (".",), ()),
        ("-l:1 debug . -r out", (".",), None),
        ("exec --continue ./bin", ("./bin",), None),
        ("trace -s 3 -t ./pkg re", ("./pkg", "re"), None),
        ("trace -v 2 re", ("re",), None),
        ("debug --unknown ./pkg", ("./pkg",), None),
    ],
)
def test_operands(text: str, operands: tuple[str, ...], program: tuple[str, ...] | None) -> None:
    command = parse(text)
    assert command.operands == operands
    assert command.program == program


def test_values() -> None:
    command = parse("--listen=:1 test -l :2 -r a -r stdout:b --headless --wd=w")
    assert command.value("listen") == ":2"
    assert command.values("redirect") == ["a", "stdout:b"]
    assert command.output_files() == ["a", "b"]
    assert command.is_on("headless")
    assert command.serves
    assert not parse("test --headless=false").serves
    assert parse("dap").serves


def test_no_command() -> None:
    with pytest.raises(UsageError, match="needs one of dlv's commands"):
        parse("--headless")


def test_the_build_is_dlv_s_own() -> None:
    command = parse_dlv(["test", "./pkg", "--build-flags=-C dir -tags 'a b' -race", "--tags=c"])
    assert command.build("go", "/o") == [
        *("go", "test", "-C", "dir", "-c", "-o", "/o", "-gcflags", "all=-N -l"),
        *("-tags", "a b", "-race", "-tags", "c", "./pkg"),
    ]
    assert parse("debug a.go b.go").build("go", "/o") == [
        *("go", "build", "-o", "/o", "-gcflags", "all=-N -l", "a.go", "b.go")
    ]
    assert parse("trace -t ./p re").build("go", "/o")[1:3] == ["test", "-c"]
    assert parse("trace -e ./bin re").builds == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "test ./pkg --init i -r x --build-flags=-v --output o -- -test.v",
            "dlv exec --init i -r x --wd=/d /b -- -test.v",
        ),
        ("test --wd=w", "dlv exec --wd=w /b"),
        ("debug --continue --headless . -- a", "dlv exec --continue --headless --wd=/d /b -- a"),
        ("trace -t -s 2 ./p re -- a", "dlv trace -s 2 --exec=/b re -- a"),
    ],
)
def test_a_built_program_is_executed(text: str, words: str) -> None:
    assert parse(text).built("/b", "/d").argv("dlv") == words.split()


def test_a_server_gets_its_address() -> None:
    command = parse("dap -l 0.0.0.0:80 --log-dest 3").serving("127.0.0.1:80").logging("1")
    assert command.argv("dlv") == ["dlv", "dap", "--listen=127.0.0.1:80", "--log-dest=1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # Delve's own example, TestSplitQuotedFields.
        (
            r"field'A' 'fieldB' fie'l\'d'C fieldD 'another field' fieldE",
            ["fieldA", "fieldB", "fiel'dC", "fieldD", "another field", "fieldE"],
        ),
        ("", []),
        ("  -tags='a b'  -v", ["-tags=a b", "-v"]),
        (r"-a=\b", [r"-a=\b"]),
    ],
)
def test_build_flags(text: str, words: list[str]) -> None:
    assert split_build_flags(text) == words
