"""What go builds through the link cache is what it builds without, and is linked once."""

import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import is_running, need
from tests.unit.link_parts import Builds, builds, wrapper
from vimto.cache.links import prune_links
from vimto.commands import dlv, gdb
from vimto.config import load_config
from vimto.go.delve import parse_dlv
from vimto.go.tool import go_env
from vimto.settings import parse_flags

__all__ = ("builds", "wrapper")  # fixtures

PLAIN = 'package p\n\nimport "testing"\n\nfunc TestIt(t *testing.T) {}\n'
NET = """package p

import (
	"net"
	"os/user"
	"testing"
)

func TestIt(t *testing.T) {
	net.LookupHost("localhost")
	user.Current()
}
"""
C = """package p

// static int f(void) { return 3; }
import "C"

func F() int { return int(C.f()) }
"""


def check_kept(builds: Builds, *flags: str) -> None:
    """Check that a link is made once, and what is made then."""
    before = builds.state()
    made = builds.link("./p", *flags)
    [name] = builds.state().keys() - before.keys()
    inode, used = builds.state()[name]
    assert builds.link("./p", *flags) == made
    assert builds.link("./p", *flags, kept=False) == made
    assert builds.state()[name][0] == inode, "linked again"
    assert builds.state()[name][1] > used


def check_not_kept(builds: Builds, *flags: str) -> None:
    before = builds.state()
    made = builds.link("./p", *flags)
    assert builds.state() == before
    assert builds.link("./p", *flags, kept=False) == made


def test_a_known_link_is_a_copy(builds: Builds) -> None:
    builds.write("p/p_test.go", PLAIN)
    check_kept(builds)
    check_kept(builds, "-ldflags=-X m/p.x=y -s")
    # Elsewhere it is another binary: the paths of its sources stand in it.
    shutil.copytree(builds.directory, builds.directory.parent / "copy")
    builds.directory = builds.directory.parent / "copy"
    check_kept(builds)


def test_what_c_libraries_alone_are_used_by(builds: Builds) -> None:
    need("gcc")
    builds.environ["CGO_ENABLED"] = "1"
    builds.write("p/p_test.go", NET)
    check_kept(builds)


@pytest.mark.slow  # the standard library may have to be compiled
def test_the_race_detector(builds: Builds) -> None:
    need("gcc")
    builds.environ["CGO_ENABLED"] = "1"
    builds.write("p/p_test.go", NET)
    check_kept(builds, "-race")
    builds.write("p/p.go", C)
    check_not_kept(builds, "-race")


def test_what_is_linked_externally(builds: Builds) -> None:
    need("gcc")
    builds.environ["CGO_ENABLED"] = "1"
    builds.write("p/p_test.go", PLAIN)
    check_not_kept(builds, "-ldflags=-linkmode=external")
    builds.environ["GO_EXTLINK_ENABLED"] = "1"
    check_not_kept(builds)
    del builds.environ["GO_EXTLINK_ENABLED"]
    builds.write("p/p.go", C)
    check_not_kept(builds)
    check_not_kept(builds, "-ldflags=-extld=gcc")


def test_what_the_user_names(builds: Builds) -> None:
    builds.write("p/p_test.go", PLAIN)
    check_not_kept(builds, "-ldflags=-buildid=mine")
    check_not_kept(builds, "-ldflags=-v=0 -dumpdep=false")


@pytest.mark.parametrize("other", ["package p\n", C])
def test_nothing_is_compiled_twice(builds: Builds, other: str) -> None:
    need("gcc")
    builds.environ["CGO_ENABLED"] = "1"
    builds.write("p/p_test.go", PLAIN)
    builds.write("p/other.go", other)
    builds.write(
        "p/p.go", f"package p\n\nconst Unique = {os.urandom(8).hex()!r}\n".replace("'", '"')
    )
    run = ["test", "-x", "-exec", "true", "./p"]
    for words, compiles in (
        (run, True),
        ([*run[:1], builds.flag, *run[1:]], False),
        (run, False),
    ):
        said = builds.go(*words)
        assert ("/compile " in said or "/compile' " in said) == compiles, said
        assert "/link" in said  # as go tells it


def test_a_link_that_fails(builds: Builds) -> None:
    builds.write("p/p.go", "package p\n\nfunc missing()\n\nfunc F() { missing() }\n")
    builds.write("p/p.s", "")
    builds.write("p/p_test.go", PLAIN.replace("{}", "{ F() }"))
    words = ["test", "-exec", "true", "./p"]
    without = builds.go(*words, status=1)
    assert "missing" in without
    assert builds.go("test", builds.flag, *words[1:], status=1) == without
    assert builds.state() == {}


def test_a_cache_that_cannot_be_used(builds: Builds) -> None:
    builds.write("p/p_test.go", PLAIN)
    real = builds.links
    made = builds.link("./p")
    for links in (real / "none", builds.directory / "go.mod"):
        builds.links = links
        assert builds.link("./p") == made
    builds.links = real
    [name] = builds.state()
    (real / name).write_bytes(b"damaged")
    assert builds.link("./p") == made
    assert (real / name).stat().st_size > len(made)
    (real / name).unlink()
    (real / name).mkdir()
    assert builds.link("./p") == made
    (real / name).rmdir()


def test_a_full_disk(builds: Builds) -> None:
    need("unshare", "mount")
    builds.write("p/p_test.go", PLAIN)
    out = builds.directory.parent / "out.test"
    script = 'set -e; mount -t tmpfs -o size=1m x "$0"; go test -c "$1" -o "$2" ./p; ls -A "$0"'
    namespace = ["-m"] if os.geteuid() == 0 else ["-rm"]
    done = subprocess.run(
        ["unshare", *namespace, "sh", "-c", script, str(builds.links), builds.flag, str(out)],
        cwd=builds.directory,
        env={**os.environ, "GOFLAGS": "", "GOWORK": "off", **builds.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert out.read_bytes() == builds.link("./p")


def test_many_at_once(builds: Builds) -> None:
    for name in ("a", "b", "c"):
        builds.write(f"{name}/{name}_test.go", PLAIN.replace("package p", f"package {name}"))
    words = ("test", "-p=8", builds.flag, "-exec", "true", "./...")
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(lambda _: builds.go(*words), range(3)))
    assert all(text.count("ok  ") == 3 for text in said)
    assert len(builds.state()) == 3
    before = builds.state()
    builds.go(*words)
    assert {name: inode for name, (inode, _) in builds.state().items()} == {
        name: inode for name, (inode, _) in before.items()
    }


@pytest.mark.parametrize("script", ["exit 0", "exit 7", "kill -9 $$", "echo $0 $@; echo x >&2"])
def test_other_tools_take_its_place(builds: Builds, script: str) -> None:
    tool = ["sh", "-c", script, "-V=full", "a b"]
    words = [str(builds.wrapper), "link-cache", str(builds.links)]
    done = [
        subprocess.run([*before, *tool], capture_output=True, check=False) for before in (words, [])
    ]
    assert done[0].returncode == done[1].returncode
    assert (done[0].stdout, done[0].stderr) == (done[1].stdout, done[1].stderr)


def test_a_tool_that_is_not_there(builds: Builds) -> None:
    words = [str(builds.wrapper), "link-cache", str(builds.links), "no-such-tool", "-V=full"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "vimto: cannot run `no-such-tool`: file does not exist\n"


# -- a linker of our own, of which everything is known

ID = "aaaaaaaaaaaaaaaaaaaa/bbbbbbbbbbbbbbbbbbbb/cccccccccccccccccccc/aaaaaaaaaaaaaaaaaaaa"


def fake_link(builds: Builds, script: str) -> list[str]:
    """Return how go would start a linker; `$2` in `script` is the output."""
    linker = builds.directory / "link"
    linker.write_text(f"#!/bin/sh\n{script}\n")
    linker.chmod(0o755)
    out = str(builds.directory / "out")
    line = ["-o", out, "-importcfg", "c", "-buildmode=exe", f"-buildid={ID}", "-extld=cc -m64", "a"]
    return [str(builds.wrapper), "link-cache", str(builds.links), str(linker), *line]


def test_what_a_linker_says_is_said_each_time(builds: Builds) -> None:
    words = fake_link(builds, 'echo "a warning"; echo more >&2; echo >>"$2"')
    for _ in range(2):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "a warning\nmore\n")
    assert builds.state() == {}


def test_a_linker_that_has_failed_is_run_as_without_us(builds: Builds) -> None:
    words = fake_link(builds, 'echo "$7 $8"; exit 3')
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "-extld=cc -m64 a\n")
    assert builds.state() == {}


def test_the_compiler_that_is_asked_is_the_one_that_was_named(builds: Builds) -> None:
    compiler = builds.directory / "cc"
    compiler.write_text('#!/bin/sh\necho "$@" $VIMTO_LINK_ASIDE $VIMTO_LINK_EXTERNAL >"$OUT"\n')
    compiler.chmod(0o755)
    out = builds.directory / "out"
    environ = {**os.environ, "PATH": f"{builds.directory}:{os.environ['PATH']}", "OUT": str(out)}
    # go's linker asks by the first word, and starts it with all.
    words = fake_link(builds, 'set -- ${7#-extld=}; "$@" -c x')
    subprocess.run(words, env=environ, check=True)
    assert out.read_text() == "-m64 -c x\n"
    assert builds.state() == {}, "what it had read is unknown"


def test_a_killed_wrapper(builds: Builds) -> None:
    told = builds.directory / "pid"
    words = fake_link(builds, f'echo $$ >"{told}.new"; mv "{told}.new" "{told}"; exec sleep 1000')
    with subprocess.Popen(words) as process:
        while not told.exists():
            time.sleep(0.01)
        linker = int(told.read_text())
        process.kill()
    while is_running(linker):
        time.sleep(0.01)
    [left] = builds.state()
    assert left.startswith(".")
    assert prune_links(str(builds.links), 1 << 30) == []
    assert builds.state() == {}


def test_what_is_built_for_debuggers(
    builds: Builds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds.write("p/p_test.go", PLAIN)
    builds.write("program/main.go", "package main\n\nfunc main() {}\n")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "agent").symlink_to(builds.wrapper.parent)
    monkeypatch.chdir(builds.directory)
    config = load_config(parse_flags(["-cache-dir", str(cache)])[0], {}, builds.directory)

    def debug(*words: str) -> None:
        debugging = dlv._Debugging(config, parse_dlv(words), "/no/dlv")
        debugging._env = go_env("go", str(builds.directory), os.environ)
        out = tmp_path / "debugged"
        assert debugging._build(str(out))
        out.unlink()

    def hold() -> None:
        options = gdb.parse_options(["./p"])
        with tempfile.TemporaryDirectory(dir=tmp_path) as base:
            assert [p.title for p in gdb._programs(config, options, Path(base))] == ["p.test"]

    links = cache / "links"
    builders = (lambda: debug("test", "./p"), lambda: debug("debug", "./program"), hold)
    for count, build in enumerate(builders, 1):
        build()
        made = {path.name: path.stat().st_ino for path in links.iterdir()}
        build()
        assert {path.name: path.stat().st_ino for path in links.iterdir()} == made
        assert len(made) == count
