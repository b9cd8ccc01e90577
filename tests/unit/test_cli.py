"""The command line: help, versions, mistakes, and where errors end."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vimto import cli, console
from vimto.cache import place
from vimto.commands import catalog
from vimto.errors import VIMTO_FAILED, ConfigError
from vimto.plan.users import resolve_user
from vimto.settings import SETTINGS
from vimto.version import describe


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_verbosity", [0])


def test_help_names_every_command_and_flag(capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["help"], ["-h"], ["--help"]):
        assert cli.run(words) == 0
        text = capfd.readouterr().out
        assert text == catalog.help_text([])
    assert text.startswith("usage: vimto [flags] command\n")
    for row in SETTINGS:
        assert f"\n  -{row.flags[0]}" in text
    for command in catalog.children(""):
        assert f"\n  {command.name}" in text
    assert max(map(len, text.splitlines())) <= 100
    assert cli.run([]) == 125  # nothing to do is a mistake


@pytest.mark.parametrize(
    ("words", "status", "shows"),
    [
        ([], 125, "usage: vimto [flags] command\n"),
        (["kernel"], 125, "usage: vimto [flags] kernel pull|"),
        (["kernel", "-h"], 0, "usage: vimto [flags] kernel pull|"),
        (["kernel", "help"], 0, "usage: vimto [flags] kernel pull|"),
        (["kernel", "help", "rm"], 0, "usage: vimto [flags] kernel rm NAME…"),
        (["kernel", "rm", "--help"], 0, "usage: vimto [flags] kernel rm NAME…"),
        (["help", "kernel", "rm"], 0, "usage: vimto [flags] kernel rm NAME…"),
        (["exec", "-memory", "1G", "-h"], 0, "usage: vimto [flags] exec"),
        (["go", "test", "-h"], 0, "usage: vimto [flags] go test"),
        (["go1.22", "test", "-C"], 125, ""),
        (["help", "kernels"], 0, "kernels: how a kernel is named"),
    ],
)
def test_who_asks_for_help_gets_it(
    capfd: pytest.CaptureFixture[str], words: list[str], status: int, shows: str
) -> None:
    assert cli.run(words) == status
    told = capfd.readouterr()  # stdout has what was asked for, and nothing else
    assert (told.err if status else told.out).startswith(shows)
    assert not (told.out if status else told.err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kernel", "bla"], "`vimto kernel` has no command `bla`"),
        (["kernel", "pul"], "did you mean `pull`?"),
        (["kernels"], "`vimto` has no command `kernels`"),
        (["kernel", "rm", ""], "an empty name names no entry"),
        (["kernel", "rm", "-all"], "hint: `vimto kernel prune -all` removes all"),
        (["kernel", "rm", "*"], "hint: `vimto kernel prune -all` removes all"),
        (["kernel", "pull", ""], "the kernel's name is empty"),
        (["kernel", "ls", "x"], "`vimto kernel ls` does not know `x`"),
        (["flush-cache", "x"], "`flush-cache` takes no arguments"),
    ],
)
def test_mistakes_of_kernel(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("VIMTO_CACHE_DIR", str(tmp_path / "cache"))
    assert cli.run(words) == 125
    out, err = capfd.readouterr()
    assert said in err and out == ""


@pytest.mark.parametrize("words", [["version"], ["completion", "bash"], ["manual"], ["help"]])
def test_what_needs_no_configuration_reads_none(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(cli, "load_config", None)
    assert cli.run(words) == 0


def test_a_home_that_is_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    for name in ("x", "own/.git", ".git"):
        (home / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(place, "_private_caches", lambda: [other])
    for directory, cache, said in (("x", other, 1), ("own", home / ".cache/vimto", 0)):
        monkeypatch.chdir(home / directory)
        assert cli.run(["kernel", "ls"]) == 0
        out, err = capfd.readouterr()
        assert out.endswith(f" in {cache}\n") and len(err.splitlines()) == said
    # Whoever names a place is told, and not by us: the machine's shares decide.
    monkeypatch.chdir(home)
    assert cli.run(["-cache-dir", "cache", "kernel", "ls"]) == 0
    assert capfd.readouterr().out.endswith(f" in {home}/cache\n")


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    for word in ("version", "-version", "--version"):
        assert cli.run([word]) == 0
        assert capfd.readouterr().out == f"vimto {describe()}\n"
    assert cli.run(["version", "x"]) == 125


def test_mistakes_come_with_a_hint(capfd: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["exce", "true"], "did you mean `exec`?"),
        (["frobnicate"], "to run a program: `vimto exec frobnicate`"),
        (["-memry", "1"], "did you mean `-memory`?"),
    ):
        assert cli.run(words) == 125
        out, err = capfd.readouterr()
        assert out == "" and err.startswith("error: ") and f"hint: {said}" in err


def test_no_failure_of_ours_looks_like_a_failed_test(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["-v", "-v", "exec"]) == 125
    err = capfd.readouterr().err
    assert err.startswith("error: `vimto exec` needs a command") and "Traceback" in err

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "load_config", fail)
    assert cli.run(["config"]) == 125
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_module_is_a_command() -> None:
    argv = [sys.executable, "-m", "vimto", "version"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == f"vimto {describe()}\n"
    closed = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *argv]
    assert subprocess.run(closed, check=False).returncode == VIMTO_FAILED  # nobody was told


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        ("<&-", 0, ""),
        ("2>&-", 0, ""),
        (">&-", 125, "error: cannot write to stdout: bad file descriptor, after 0 bytes\n"),
        # Python looks at it before any code of ours runs; docs/environment.md says so.
        ("</", 1, "Fatal Python error: init_sys_streams: <stdin> is a directory"),
        ("1</", 1, "Fatal Python error"),
    ],
)
def test_streams_that_cannot_be_used(redirection: str, status: int, said: str) -> None:
    script = f'"$@" {redirection}'
    argv = ["sh", "-c", script, "sh", sys.executable, "-m", "vimto", "version"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[: len(said)]) == (status, said)
    assert done.stdout == (f"vimto {describe()}\n" if status == 0 else "")


def test_users_by_name_and_number() -> None:
    assert resolve_user("root")[:2] == (0, 0)
    assert resolve_user("0") == resolve_user("root")
    assert resolve_user("4294000000") == (4294000000, 4294000000, [4294000000])
    assert resolve_user("4294967294")[:2] == (4294967294, 4294967294)
    for name in ("4294967295", "4294967296", "9" * 5000, "٣"):
        with pytest.raises(ConfigError, match="is not a valid user: uids are 0 to 4294967294"):
            resolve_user(name)
    for name in ("²", "-1"):
        with pytest.raises(ConfigError, match=f"there is no user `{name}`"):
            resolve_user(name)
    with pytest.raises(ConfigError, match="no user `of-nobody`") as caught:
        resolve_user("of-nobody")
    assert caught.value.hint


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    argv = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", sys.executable, "-m", "vimto", "exec", "x"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        argv, cwd=gone, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 125
    assert done.stderr.startswith("error: the working directory cannot be used: no such file")


def test_vv(capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["-vv"], ["-v", "-v"], ["--vv"]):
        assert cli.run([*words, "version"]) == 0
        assert console.verbosity() == 2


def test_a_host_with_nothing_left_to_give_is_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def dispatch(argv: list[str]) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    assert cli.run(["exec", "true"]) == 125
    said = capfd.readouterr().err
    assert said.startswith("error: this host lets vimto have no more: Too many open files\n")
    assert "hint: " in said and "Traceback" not in said
