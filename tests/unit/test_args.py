"""The go command line, understood as go understands it: compared with go itself at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need
from vimto.commands.go import go_timeout
from vimto.errors import UsageError
from vimto.go.args import GoCommand, is_go_word, parse_go


def parse(line: str, goflags: str = "") -> GoCommand:
    return parse_go(line.split(), goflags=goflags)


def flags_of(command: GoCommand) -> dict[str, str]:
    return {flag.name: flag.value for flag in command.flags}


@pytest.mark.parametrize(
    ("line", "flags", "packages", "rest"),
    [
        ("go test", {}, "", ""),
        ("go test ./...", {}, "./...", ""),
        ("go test -race ./a ./b", {"race": "true"}, "./a ./b", ""),
        ("go test --race=false --run X .", {"race": "false", "run": "X"}, ".", ""),
        ("go test . -v -run=X", {"v": "true", "run": "X"}, ".", ""),
        ("go test -v . -count 1 ./b", {"v": "true", "count": "1"}, ".", "./b"),
        ("go test -tags a,b -ldflags -s .", {"tags": "a,b", "ldflags": "-s"}, ".", ""),
        ("go test . -foo bar -v", {"v": "true"}, ".", "-foo bar"),
        ("go test . -foo bar baz -v", {}, ".", "-foo bar baz -v"),
        ("go test . -foo=1 bar -v", {}, ".", "-foo=1 bar -v"),
        ("go test -foo . -v", {"v": "true"}, "", "-foo ."),
        ("go test -args -v x", {}, "", "-v x"),
        ("go test . --args -exec x", {}, ".", "-exec x"),
        ("go test . -- -exec x", {}, ".", "-- -exec x"),
        ("go test -- -v", {}, "", "-- -v"),
        ("go test -test.v -test.run X .", {"v": "true", "run": "X"}, ".", ""),
        ("go test -test.c .", {}, "", "-test.c ."),
        ("go test -", {}, "-", ""),
        ("go test -run", {"run": ""}, "", ""),
        (
            "go test -buildvcs -cover -c .",
            {"buildvcs": "true", "cover": "true", "c": "true"},
            ".",
            "",
        ),
        ("go run . -exec x", {}, ".", "-exec x"),
        ("go run -race a.go b.go c d.go", {"race": "true"}, "a.go b.go", "c d.go"),
        ("go run -- x.go -v", {}, "x.go", "-v"),
        ("go run -v ex.am/cmd@v1 -v", {"v": "true"}, "ex.am/cmd@v1", "-v"),
        ("go vet -exec x ./...", {}, "", ""),
    ],
)
def test_parse_go(line: str, flags: dict[str, str], packages: str, rest: str) -> None:
    command = parse(line)
    assert flags_of(command) == flags
    assert command.packages == tuple(packages.split())
    assert command.rest == tuple(rest.split())
    assert command.words == tuple(line.split())


@pytest.mark.parametrize(
    ("line", "with_exec"),
    [
        ("go test ./...", "go test -exec=E ./..."),
        ("go1.26.1 test -v", "go1.26.1 test -exec=E -v"),
        ("go test -C dir -v", "go test -C dir -exec=E -v"),
        ("go test --C=dir -v", "go test --C=dir -exec=E -v"),
        ("go -C dir test -v", "go -C dir test -exec=E -v"),
        ("go run . a", "go run -exec=E . a"),
        ("go test", "go test -exec=E"),
    ],
)
def test_with_exec(line: str, with_exec: str) -> None:
    assert parse(line).with_exec(["E"]) == with_exec.split()


def test_with_exec_quotes_by_go_s_rules() -> None:
    assert parse("go test").with_exec(["/a b/python", "it's"])[2] == "-exec='/a b/python' it's"
    with pytest.raises(UsageError, match="cannot be quoted"):
        parse("go test").with_exec(["/a 'b' \"c\""])


@pytest.mark.parametrize(
    ("line", "goflags", "where"),
    [
        ("go test -exec sudo .", "", "`-exec` cannot"),
        ("go test . --exec=sudo", "", "`-exec` cannot"),
        ("go run -exec sudo .", "", "`-exec` cannot"),
        ("go test .", "-race -exec=sudo", "`-exec` in GOFLAGS"),
    ],
)
def test_the_user_s_own_exec_is_refused(line: str, goflags: str, where: str) -> None:
    with pytest.raises(UsageError, match=where) as caught:
        parse(line, goflags)
    assert "vimto exec" in caught.value.hint


def test_goflags_count_as_if_typed_first() -> None:
    command = parse("go test -race=false .", "-race '-tags=a b' -modcacherw --work -nonsense")
    assert command.value("tags") == "a b"
    assert not command.is_on("race")
    assert command.is_on("work")
    assert command.value("nonsense") == ""
    assert parse("go test .", "'unterminated").flags == ()
    assert parse("go build .", "-exec=x").flags == ()


def test_facts() -> None:
    command = parse("go test -c -o x.test -json -timeout 5m -p 3 . -coverpkg=./... -short")
    assert command.compiles_only
    assert command.is_on("json")
    assert (command.value("timeout"), command.value("p"), command.value("o")) == (
        "5m",
        "3",
        "x.test",
    )
    assert [flag.name for flag in command.test_flags] == ["timeout", "short"]
    assert [flag.name for flag in command.build_flags] == ["c", "o", "json", "p", "coverpkg"]
    assert parse("go test -n .").compiles_only
    assert not parse("go test .").compiles_only
    assert parse("go run .").runs_programs
    assert not parse("go build ./...").runs_programs
    assert parse("go test -short").value("timeout", "10m") == "10m"


@pytest.mark.parametrize("line", ["go", "go -C dir"])
def test_go_alone_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="needs a command"):
        parse(line)


@pytest.mark.parametrize(
    ("line", "directories"),
    [
        ("go test .", []),
        ("go test -coverprofile x/c.out .", []),
        ("go test -cpuprofile cpu.out .", ["/w"]),
        ("go test -cpuprofile a/cpu.out -trace ../t .", ["/w/a", "/"]),
        ("go test -memprofile /abs/m .", ["/abs"]),
        ("go test -outputdir out -mutexprofile m .", ["/w/out"]),
        ("go test -C sub -outputdir ../out -blockprofile d/b .", ["/w/out", "/w/out/d"]),
        ("go test -artifacts .", ["/w"]),
        ("go run . -cpuprofile x", []),
    ],
)
def test_output_directories(line: str, directories: list[str]) -> None:
    assert parse(line).output_directories("/w") == directories


@pytest.mark.parametrize("word", ["go", "go1.26.1", "go1.27rc1", "gotip", "/usr/local/go/bin/go"])
def test_is_go_word(word: str) -> None:
    assert is_go_word(word)


@pytest.mark.parametrize("word", ["gofmt", "go1", "go2.1", "exec", "./x.test", "", "go1.x"])
def test_is_no_go_word(word: str) -> None:
    assert not is_go_word(word)


SHOW = """\
import json, os, sys
sys.stdout.write("ARGV " + json.dumps([os.getcwd(), *sys.argv[1:]]) + "\\n")
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("go")
    root = tmp_path_factory.mktemp("module")
    (root / "sub").mkdir()
    (root / "od").mkdir()
    (root / "go.mod").write_text("module ex.am/m\ngo 1.21\n")
    (root / "main.go").write_text("package main\nfunc main() {}\n")
    (root / "sub/a.go").write_text("package sub\n")
    (root / "sub/a_test.go").write_text(
        'package sub\nimport "testing"\nfunc TestA(t *testing.T) {}\n'
    )
    (root / "show.py").write_text(SHOW)
    return root


def run_go(
    module: Path, line: str, cwd: Path, *, goflags: str = "", timeless: bool = False
) -> list[str]:
    """Run go with our `-exec` and return the directory, the program and the words it was given."""
    command = parse(line)
    shim = [sys.executable, "-I", "-S", str(module / "show.py")]
    words = command.with_exec(shim, timeless=timeless)
    env = {**os.environ, "GOFLAGS": goflags, "GOWORK": "off", "GOTOOLCHAIN": "local"}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    shown = [text for text in done.stdout.splitlines() if text.startswith("ARGV ")]
    if "-json" in words:
        events = (json.loads(text) for text in done.stdout.splitlines())
        text = "".join(event.get("Output", "") for event in events)
        shown = [text for text in text.splitlines() if text.startswith("ARGV ")]
    assert len(shown) == 1, done.stdout + done.stderr
    argv: list[str] = json.loads(shown[0].removeprefix("ARGV "))
    return argv


@pytest.mark.parametrize(
    "line",
    [
        "go test -v ./sub -foo bar -run X baz -v",
        "go test -v -count=1 ./sub -foo=bar -short baz -run Y",
        "go test -v -unknown ./sub -run X",
        "go test -v ./sub -- -run X",
        "go test -v ./sub -args -run X -exec y",
        "go test -v -test.run Z --short=false ./sub -bench . -y=x",
    ],
)
def test_go_passes_on_what_we_say_it_does(module: Path, line: str) -> None:
    command = parse(line)
    cwd = module / "sub" if not command.packages else module
    argv = run_go(module, line, cwd)[2:]
    injected = ("-test.paniconexit0", "-test.timeout=10m0s")
    expected = {f"-test.{flag.name}={flag.value}" for flag in command.test_flags}
    own = [word for word in argv if word not in injected and word not in expected]
    assert own == list(command.rest)
    assert expected <= set(argv)


@pytest.mark.parametrize(
    ("line", "goflags", "timeouts"),
    [
        ("./sub", "", 1),
        ("./sub", "-timeout=3s", 1),
        ("-timeout 3s ./sub", "-timeout=4s", 1),
        ("./sub --test.timeout=3s -foo", "", 1),
        ("-timeout 3s ./sub -timeout=4s", "", 2),
        ("./sub -timeout 3s x -args -timeout 5s -test.timeout=0s", "", 1),
        ("-json ./sub -foo -timeout=3s x", "", 1),
    ],
)
def test_a_timeless_line_differs_in_the_timeout_alone(
    module: Path, line: str, goflags: str, timeouts: int
) -> None:
    with_timeout = run_go(module, f"go test -v {line}", module, goflags=goflags)
    without = run_go(module, f"go test -v {line}", module, goflags=goflags, timeless=True)
    command = parse(f"go test -v {line}", goflags)
    assert max(1, len(command.timeouts_at)) == timeouts
    limit = go_timeout(command)
    assert limit and limit.places == timeouts
    # go puts what is not on the line itself first; the binary does not care.
    assert without.count("-test.timeout=0s") == timeouts + line.count("-test.timeout=0s")
    assert sorted(limit.told(without)[2:]) == sorted(
        f"-test.timeout={limit.value}" if word in ("-test.timeout=3s", "-test.timeout=4s") else word
        for word in with_timeout[2:]
    )
    assert limit.told(without)[-1] == with_timeout[-1] or "-args" not in line


@pytest.mark.parametrize(
    ("line", "goflags", "expected"),
    [
        # What the binary is told; the end, a minute or a tenth later; and another 5 s or a tenth.
        ("go test", "", ("10m0s", "11m0s", 660.0, 60.0)),
        ("go test", "-timeout=30s", ("30s", "1m30s", 90.0, 5.0)),
        ("go test -timeout 90s", "-timeout=30s", ("1m30s", "2m30s", 150.0, 9.0)),
        ("go test . -timeout=1ms -test.timeout 1h", "", ("1h0m0s", "1h6m0s", 3960.0, 360.0)),
        ("go test -bench . -timeout=5m", "", ("5m0s", "6m0s", 0.0, 30.0)),
        ("go test -fuzz F", "", ("10m0s", "11m0s", 0.0, 60.0)),
        ("go test . -args -timeout 5s", "", ("10m0s", "11m0s", 660.0, 60.0)),
        ("go test -timeout 0", "", None),
        ("go test -timeout=-1s", "", None),
        ("go test -timeout", "", None),
        ("go test -timeout 5", "", None),
        ("go run .", "", None),
    ],
)
def test_the_limit_that_go_would_keep(
    line: str, goflags: str, expected: tuple[str, str, float, float] | None
) -> None:
    found = go_timeout(parse(line, goflags))
    assert (found and (found.value, found.total, found.kill, found.grace)) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-C ../od -cpuprofile c ../sub", ["-test.outputdir={root}/od", "-test.cpuprofile=c"]),
        ("-outputdir=od -trace x/t ./sub", ["-test.outputdir={root}/od", "-test.trace=x/t"]),
        ("-artifacts ./sub", ["-test.outputdir={root}", "-test.artifacts=true"]),
    ],
)
def test_the_binary_s_output_directory(module: Path, line: str, words: list[str]) -> None:
    cwd = module / "sub" if line.startswith("-C") else module
    directory, _, *argv = run_go(module, f"go test {line} -v", cwd)
    assert directory == str(module / "sub")
    assert {word.format(root=module) for word in words} <= set(argv)
    output = next(word for word in argv if word.startswith("-test.outputdir="))
    directories = parse(f"go test {line}").output_directories(str(cwd))
    assert all(path.startswith(output.removeprefix("-test.outputdir=")) for path in directories)


def test_go_run(module: Path) -> None:
    directory, _, *argv = run_go(module, "go run . -exec x", module)
    assert (directory, argv) == (str(module), ["-exec", "x"])
