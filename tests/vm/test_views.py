"""What a machine shows of the host's /tmp and of homes, and what it never writes there."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.conftest import Module, Vimto
from vimto.config import load_config

COVERED = """package main

import (
	"fmt"
	"os"
)

func main() {
	self, err := os.Executable()
	fmt.Println(self, err)
	os.WriteFile("/tmp/leak-"+os.Args[1], nil, 0o644)
}
"""
STARTS = """
func TestStarts(t *testing.T) {
	out, err := exec.Command(os.Getenv("PROGRAM"), "t").CombinedOutput()
	if err != nil {
		t.Fatal(string(out), err)
	}
}
"""


@pytest.fixture
def loose(vimto: Vimto) -> Iterator[Path]:
    """The path of a file that may be made directly in /tmp."""
    path = Path(f"/tmp/vimto-{vimto.mark}")
    yield path
    path.unlink(missing_ok=True)


def counters(directory: Path) -> int:
    return sum(path.name.startswith("covcounters.") for path in directory.iterdir())


def test_programs_leave_their_counters(vimto: Vimto, module: Module, loose: Path) -> None:
    module.write("main.go", COVERED)
    module.test("t/t_test.go", STARTS, "os", "os/exec")
    counts = vimto.temporary.parent / "counts"
    counts.mkdir()
    env = {"GOCOVERDIR": str(counts), "PROGRAM": str(loose)}
    words = ["go", "build", "-cover", "-o", str(loose), "."]
    subprocess.run(words, cwd=vimto.directory, env=vimto.environment(), check=True)
    elsewhere = vimto.temporary.parent / "elsewhere"
    elsewhere.mkdir()
    ran = vimto("exec", str(loose), vimto.mark, env=env, cwd=elsewhere).check()
    assert ran.text == f"{loose} <nil>\n"
    # The one file is shown; the rest of /tmp is the machine's own.
    assert not Path(f"/tmp/leak-{vimto.mark}").exists()
    assert counters(counts) == 1
    vimto("go", "run", "-cover", ".", "r", env=env).check()
    assert counters(counts) == 2
    copy = module.root / "program"  # where the test can find it
    shutil.copy(loose, copy)
    vimto.go("./t", env=env | {"PROGRAM": str(copy)}).check()
    assert counters(counts) == 3


def test_communal_directories_are_seen_and_never_written(vimto: Vimto, loose: Path) -> None:
    loose.write_text("the host's\n")
    vimto.directory = Path("/tmp")
    leak = Path(f"/tmp/leak-{vimto.mark}")
    script = f"""
    cat {loose}; echo changed > {loose}; cat {loose.name}; rm {loose}; test ! -e {loose}
    echo x > {leak}; ls {leak}; stat -c %a .
    """
    outcome = vimto.script(script).check()
    assert outcome.text == f"the host's\nchanged\n{leak}\n1777\n"
    assert loose.read_text() == "the host's\n" and not leak.exists()
    said = [line for line in outcome.errors.splitlines() if "-share ." in line]
    assert said == ["vimto: what is written in `/tmp` goes with the machine; `-share .` keeps it"]
    # A binary in the home directory, which is below /tmp itself.
    home = vimto.temporary.parent / "home"
    (home / "dir").mkdir(parents=True)
    shutil.copy("/bin/sh", home / "sh")
    shutil.copy("/bin/sh", loose)
    vimto.directory = vimto.temporary.parent / "module"
    script = 'echo x > ~/leak && echo x > ~/dir/leak && ls ~; "$1" -c "echo $0"; echo x > here'
    words = ("exec", str(home / "sh"), "-c", script, str(loose), str(loose))
    cache = load_config({}, os.environ, "/").cache_dir
    env = {"HOME": str(home), "VIMTO_CACHE_DIR": str(cache)}
    outcome = vimto(*words, env=env)
    assert "not found" in outcome.errors  # an argument is not the command
    assert outcome.text == "dir\nleak\nsh\n"
    assert sorted(os.listdir(home)) == ["dir", "sh"] and os.listdir(home / "dir") == []
    assert (vimto.directory / "here").exists()


def test_what_belongs_to_a_repository_is_seen_below_tmp(vimto: Vimto) -> None:
    top = vimto.temporary.parent
    git, tree = top / "main/.git", top / "real/tree"
    for path in (git / "worktrees/tree", tree, top / "dep", top / "go/bin"):
        path.mkdir(parents=True)
    (git / "worktrees/tree/commondir").write_text("../..\n")
    (git / "config").write_text("common\n")
    (tree / ".git").write_text(f"gitdir: {git}/worktrees/tree\n")
    (tree / "go.mod").write_text("module m\n\nreplace example.org/dep => ../../dep\n")
    (top / "dep/dep.go").write_text("package dep\n")
    (top / "go/VERSION").write_text("of go\n")
    shutil.copy("/bin/true", top / "go/bin/tool")
    (top / "link").symlink_to("real/tree")
    script = """
    set -e
    pwd; cd "$TOP"; cat dep/dep.go main/.git/config go/VERSION; tool
    cat main/.git/worktrees/tree/commondir; echo up > link/here
    echo new > main/.git/new; echo changed > dep/dep.go; cat dep/dep.go; ls
    """
    path = f"{os.environ['PATH']}:{top}/go/bin"
    env = {"PWD": str(top / "link"), "PATH": path, "TOP": str(top)}
    outcome = vimto.script(script, env=env, cwd=top / "link").check()
    expected = (
        f"{top}/link\npackage dep\ncommon\nof go\n../..\nchanged\ndep\ngo\nlink\nmain\nreal\n"
    )
    assert outcome.text == expected
    assert not (git / "new").exists()
    assert (top / "dep/dep.go").read_text() == "package dep\n"
    assert (tree / "here").read_text() == "up\n"
