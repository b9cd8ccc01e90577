"""Core dumps of tests and commands, and what vimto keeps beside them."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need
from tests.vm.conftest import Module, Vimto

CRASH = "func TestCrash(t *testing.T) { var p *int; _ = *p }"
ENV = {"GOTRACEBACK": "crash"}


def dump_of(directory: Path, program: str) -> Path:
    (core,) = directory.glob(f"core-{program}-*")
    assert re.fullmatch(rf"core-{re.escape(program)}-\d{{10,}}-\d+", core.name)
    assert core.read_bytes()[:4] == b"\x7fELF"
    return core


def test_a_test_that_crashes_leaves_core_dump_and_binary(vimto: Vimto, module: Module) -> None:
    module.test("pkg/pkg_test.go", CRASH)
    package = module.root / "pkg"
    outcome = vimto.go("./pkg", env=ENV).check(1)
    core = dump_of(package, "pkg.test")
    binary = package / "pkg.test"
    assert binary.read_bytes()[:4] == b"\x7fELF"
    line = re.search(r"^vimto: core dumped: (.*)$", outcome.text, re.M)
    assert line, outcome.text
    assert shlex.split(line[1]) == ["dlv", "core", str(binary), str(core)]
    need("dlv")
    script = module.write("script", "bt\nexit\n")
    options = ["--allow-non-terminal-interactive=true", "--init", str(script)]
    words = [*shlex.split(line[1]), *options]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert "pkg.TestCrash" in done.stdout, done.stderr
    # A second time, with links planted in the way: nothing that is there is touched.
    core.unlink()
    binary.unlink()
    victim = module.root / "victim"
    binary.symlink_to(victim)
    vimto.go("./pkg", env=ENV).check(1)
    core = dump_of(package, "pkg.test")
    assert not victim.exists() and binary.is_symlink()
    assert (package / f"pkg-{core.name.split('-')[2]}.test").read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize("words", [(), ("-sudo",)], ids=["user", "root"])
def test_whoever_crashes(stranger: Vimto, words: tuple[str, ...]) -> None:
    outcome = stranger(
        *words,
        "exec",
        "sh",
        "-c",
        "cd /tmp; sh -c 'kill -SEGV $$'; sh -c 'ulimit -c 0; kill -SEGV $$'; exit 7",
    ).check(7)
    core = dump_of(stranger.directory, "sh")
    assert core.stat().st_uid == stranger.user
    assert str(core) in outcome.errors


def test_a_core_dump_in_a_communal_directory_is_not_lost_unseen(vimto: Vimto) -> None:
    vimto.directory = Path("/var/tmp")
    outcome = vimto("exec", "sh", "-c", "sh -c 'kill -SEGV $$'; exit 7").check(7)
    said = r"^warning: the core dump `/var/tmp/core-sh-\d+-\d+` goes with the machine; `-share \.` "
    assert re.search(said, outcome.errors, re.M), outcome.errors
