"""The words of `vimto gdb-kernel`."""

import pytest

from vimto.addresses import Address
from vimto.errors import UsageError
from vimto.gdb.options import parse_options


def test_own_flags_then_go_s_then_gdb_s() -> None:
    words = "-break a --break=b.c:3 -from-boot -vmlinux v ./pkg -run TestX -- -x f -ex cont"
    options = parse_options(words.split())
    assert options.breaks == ("a", "b.c:3")
    assert options.from_boot and not options.fetch_debug and not options.go_symbols
    assert options.vmlinux == "v"
    assert options.words == ("./pkg", "-run", "TestX")
    assert options.gdb_words == ("-x", "f", "-ex", "cont")
    assert not options.is_batch


@pytest.mark.parametrize(
    ("words", "go", "gdb"),
    [
        ("exec ls -l", "exec ls -l", ""),
        ("exec -- ls -l", "exec -- ls -l", ""),
        ("exec ls -- -batch", "exec ls", "-batch"),
        ("exec -- ls -- x -- -batch", "exec -- ls -- x", "-batch"),
        ("", "", ""),
        ("-- -q", "", "-q"),
        (". -args x", ". -args x", ""),
    ],
)
def test_where_gdb_s_words_begin(words: str, go: str, gdb: str) -> None:
    options = parse_options(words.split())
    assert (options.words, options.gdb_words) == (tuple(go.split()), tuple(gdb.split()))


def test_what_makes_a_batch() -> None:
    assert parse_options(["-batch", "file", "."]).is_batch
    assert parse_options([".", "--", "--batch"]).is_batch


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-break"], "needs a value"),
        (["-listen", ":1", "-batch", "f"], "starts no gdb"),
        (["-listen", ":1", ".", "--", "-q"], "starts no gdb"),
        (["-listen", ":1", "-break", "panic", "."], "starts no gdb"),
    ],
)
def test_what_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_options(words)


def test_where_to_listen() -> None:
    assert parse_options(["-listen", "127.0.0.1:0", "."]).listen == Address("127.0.0.1", 0)
    assert parse_options(["-listen", "1234", "."]).listen == Address("127.0.0.1", 1234)
    assert parse_options(["."]).listen is None
    with pytest.raises(UsageError, match="`nowhere`"):
        parse_options(["-listen", "nowhere", "."])


@pytest.mark.parametrize("words", ["exec", "exec --", "exec -- -- -batch"])
def test_exec_needs_a_command(words: str) -> None:
    with pytest.raises(UsageError, match="needs a command"):
        parse_options(words.split())


@pytest.mark.parametrize("flag", ["-break", "-batch", "-listen", "-vmlinux"])
def test_no_value_is_empty(flag: str) -> None:
    with pytest.raises(UsageError, match=f"`{flag}` needs a value"):
        parse_options([flag, "", "."])
