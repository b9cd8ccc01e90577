"""Help, manual page and completions: all from the tables of settings and commands."""

import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import need
from vimto import cli, console
from vimto.commands import catalog, manual
from vimto.commands.catalog import COMMANDS
from vimto.settings import SETTINGS

ROOT = Path(__file__).parents[2]
NAMES = [row.name for row in COMMANDS if not row.topic]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_verbosity", [0])


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    asked = [["help", *name.split()], *([*name.split(), flag] for flag in catalog.HELP_FLAGS)]
    for words in asked if name != "help" else asked[:1]:
        assert cli.run(words) == 0
        out, err = capfd.readouterr()
        assert err == "" and out == catalog.help_text(name.split())
        assert out.startswith(f"usage: vimto [flags] {name}")
        assert max(map(len, out.splitlines())) <= 100


def test_groups_and_topics(capfd: pytest.CaptureFixture[str]) -> None:
    for words, status in ((["kernel"], 125), (["kernel", "help"], 0)):
        assert cli.run(words) == status
        told = capfd.readouterr()
        out = told.err if status else told.out
        assert all(f"\n  kernel {name} " in out for name in ("pull", "ls", "info", "rm", "prune"))
    assert cli.run(["kernel", "help", "prune"]) == 0
    assert "-all" in capfd.readouterr().out
    assert cli.run(["exec", "-memory", "1G", "-h"]) == 0
    assert capfd.readouterr().out == catalog.help_text(["exec"])
    assert cli.run(["help", "kernels"]) == 0
    assert "`apt:PACKAGE" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("test", "`vimto` has no command `test`", "did you mean `go test`?"),
        ("vet ./...", "`vimto` has no command `vet`", "did you mean `go vet`?"),
        ("kernel lst", "`vimto kernel` has no command `lst`", "did you mean `ls`?"),
        ("help kernel lst", "`vimto kernel` has no command `lst`", "did you mean `ls`?"),
        ("kernel x", "`vimto kernel` has no command `x`", "usage: vimto [flags] kernel pull|ls"),
        ("help exce", "`vimto` has no command `exce`", "did you mean `exec`?"),
        ("config -memry 1", "unknown flag `-memry`", "did you mean `-memory`?"),
        ("completion tcsh", "which shell? `bash`, `zsh` or `fish`", "usage: vimto"),
    ],
)
def test_mistakes(words: str, message: str, hint: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(words.split()) == 125
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"error: {message}\n\nhint: {hint}")


def test_the_table_is_whole() -> None:
    for row in COMMANDS:
        shown_only = row.topic or row.name in ("go test", "go run")
        assert bool(row.run) != (shown_only or catalog.is_group(row)), row.name
        if row.run:
            module, _, name = row.run.partition(":")
            assert callable(getattr(importlib.import_module(module), name)), row.name
        if " " in row.name:
            assert row.name.split()[0] in NAMES
        assert row.summary and not row.summary.endswith(".")


@pytest.mark.parametrize("name", ["1", "bash", "zsh", "fish"])
def test_the_files_that_are_installed_are_up_to_date(name: str) -> None:
    text = manual.manual() if name == "1" else manual.SHELLS[name]()
    assert (ROOT / f"docs/share/vimto.{name}").read_text() == text, "run hack/share"
    for row in SETTINGS:
        assert row.flags[0].replace("-", "\\-" if name == "1" else "-") in text
    with open(ROOT / "pyproject.toml", "rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert f"docs/share/vimto.{name}" in wheel["shared-data"]


def complete(*words: str) -> list[str]:
    """Return what bash offers for the last one of `words`."""
    line = " ".join(f"'{word}'" for word in words)
    script = (
        f"{manual.bash()}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _vimto;"
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("bash")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert complete("vimto", "ex") == ["exec"]
    assert complete("vimto", "-mem") == ["-memory"]
    assert complete("vimto", "-memory", "1G", "kernel", "p") == ["pull", "prune"]
    assert complete("vimto", "-sudo", "go", "t") == ["test"]
    assert complete("vimto", "-qemu", "f") == ["file"]
    assert complete("vimto", "go", "test", "f") == ["file"]
    assert complete("vimto", "kernel", "prune", "-") == ["-all"]
    assert "setpriv" in complete("vimto", "exec", "setp")


def test_the_manual_page_is_well_formed() -> None:
    text = manual.manual()
    for line in text.splitlines():
        assert re.match(r"\.(\\\"|TH|SH|TP|B|I|br)( |$)|[^.']", line), line
    escapes = set(re.findall(r"\\(?:f.|\(..|.)", text))
    assert escapes <= {"\\-", "\\&", "\\e", '\\"', "\\fB", "\\fR", "\\fI", "\\(aq"}
    assert text.count("\\fB") + text.count("\\fI") == text.count("\\fR")
    for row in COMMANDS:
        assert row.topic or f".B {row.name}".replace("-", "\\-") in text
