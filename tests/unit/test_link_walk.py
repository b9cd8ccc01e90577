"""Whatever changes between two builds, a link that is kept is what a fresh one would be."""

import os
import random
import subprocess
from collections.abc import Callable

import pytest

from tests.conftest import need
from tests.unit.link_parts import Builds, builds, wrapper

__all__ = ("builds", "wrapper")  # fixtures

STEPS = 60
COMPILER = "vimto-test-cc"

FILES = {
    "dep/dep.go": "package dep\n\nconst Value = 0\n",
    "plain/extra.go": '//go:build extra\n\npackage plain\n\nfunc init() { v += "extra" }\n',
    "plain/plain.go": """package plain

import (
	_ "embed"
	"m/dep"
)

var v = ""

//go:embed text
var text string

func Told() (string, string, int) { return v, text, dep.Value }
""",
    "plain/plain_test.go": """package plain

import "testing"

func TestIt(t *testing.T) { t.Log(Told()) }
""",
    "native/native.go": """package native

// #cgo LDFLAGS: -L${SRCDIR}/lib -lstays -lmoves -Wl,-rpath,${SRCDIR}/lib
// int stays(void), moves(void);
// #ifndef FROM_COMPILER
// #define FROM_COMPILER 0
// #endif
// static int compiled(void) { return FROM_COMPILER; }
import "C"

func Told() int { return int(C.stays() + C.moves() + C.compiled()) }
""",
    "native/native_test.go": """package native

import "testing"

func TestIt(t *testing.T) { t.Log(Told()) }
""",
    "program/main.go": """package main

import "m/dep"

func main() { println(dep.Value) }
""",
    "program/main_test.go": """package main

import "testing"

func TestIt(t *testing.T) { main() }
""",
    "profile/main.go": """package main

import (
	"os"
	"runtime/pprof"
	"time"
)

func main() {
	pprof.StartCPUProfile(os.Stdout)
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
	}
	pprof.StopCPUProfile()
}
""",
}
LDFLAGS = (
    "",
    "-s -w",
    "-X m/plain.v=one",
    "-X m/plain.v=two",
    "-linkmode=external",
    "-buildid=mine",
    "-extldflags=-Wl,-z,now",
)


class Walk:
    """A module, and what may change about it. Values are few, so that what was comes again."""

    def __init__(self, builds: Builds, chance: random.Random) -> None:
        self.builds = builds
        self.chance = chance
        self.flags: dict[str, str] = {}
        self.profile = self._profile()
        place = builds.directory.parent
        # By its name alone go has what the standard library needs of C in its cache the next time.
        builds.environ |= {
            "CGO_ENABLED": "1",
            "CC": COMPILER,
            "PATH": f"{place}:{os.environ['PATH']}",
        }
        self.set_compiler(0)
        self.set_library("libstays.a", 0)
        self.set_library("libmoves.so", 0)
        self.edit("plain/text", "0")

    def _profile(self) -> bytes:
        out = self.builds.directory.parent / "profile"
        self.builds.go("build", "-o", str(out), "./profile")
        return subprocess.run([out], stdout=subprocess.PIPE, check=True).stdout

    def edit(self, name: str, text: str) -> None:
        self.builds.write(name, text)

    def set_compiler(self, value: int) -> None:
        compiler = self.builds.directory.parent / COMPILER
        compiler.write_text(f'#!/bin/sh\nexec gcc -DFROM_COMPILER={value} "$@"\n')
        compiler.chmod(0o755)

    def set_library(self, name: str, value: int) -> None:
        place = self.builds.directory / "native/lib"
        place.mkdir(exist_ok=True)
        function = name[3:].partition(".")[0]
        source = place / f"{function}.txt"
        source.write_text(f"int {function}(void) {{ return {value}; }}\n")
        if name.endswith(".so"):
            words = ["gcc", "-shared", "-fPIC", "-x", "c", source, "-o", place / name]
            subprocess.run(words, check=True)
            return
        made = place / f"{function}.o"
        (place / name).unlink(missing_ok=True)
        subprocess.run(["gcc", "-c", "-x", "c", source, "-o", made], check=True)
        subprocess.run(["ar", "rcD", place / name, made], check=True)
        made.unlink()

    def set_profile(self, value: int) -> None:
        path = self.builds.directory / "program/default.pgo"
        path.unlink(missing_ok=True)
        if value:
            path.write_bytes(self.profile)

    def set_variable(self, name: str, value: str) -> None:
        self.builds.environ[name] = value

    def set_flag(self, name: str, value: str) -> None:
        self.flags[name] = value

    def change(self) -> str:
        """Change something, and return a package that it concerns."""
        value, bit = self.chance.randrange(3), self.chance.randrange(2)
        changes: list[tuple[str, Callable[[], None]]] = [
            ("plain", lambda: self.edit("dep/dep.go", f"package dep\n\nconst Value = {value}\n")),
            ("plain", lambda: self.edit("plain/text", str(value))),
            ("native", lambda: self.set_compiler(bit)),
            ("native", lambda: self.set_library("libstays.a", value)),
            ("native", lambda: self.set_library("libmoves.so", value)),
            ("program", lambda: self.set_profile(bit)),
            ("program", lambda: self.set_variable("GO_EXTLINK_ENABLED", ("", "", "1")[value])),
            ("native", lambda: self.set_variable("CC", ("gcc", COMPILER)[bit])),
            ("plain", lambda: self.set_flag("-tags", ("", "extra")[bit])),
            ("plain", lambda: self.set_flag("-trimpath", ("false", "true")[bit])),
            ("plain", lambda: self.set_flag("-gcflags", ("", "m/...=-N")[bit])),
            ("plain", lambda: self.set_flag("-ldflags", self.chance.choice(LDFLAGS))),
        ]
        package, change = self.chance.choice(changes)
        change()
        return package

    def step(self, package: str, seed: str) -> None:
        flags = [f"{name}={value}" for name, value in self.flags.items() if value]
        kept = self.builds.link(f"./{package}", *flags)
        fresh = self.builds.link(f"./{package}", *flags, kept=False)
        assert kept == fresh, (f"TEST_SEED={seed}", package, flags, self.builds.environ)


@pytest.mark.slow
@pytest.mark.timeout(900)  # go compiles the standard library anew for some flags, once
def test_a_walk(builds: Builds) -> None:
    need("gcc", "ar")
    seed = os.environ.get("TEST_SEED") or os.urandom(4).hex()  # to walk the same way again
    chance = random.Random(seed)
    for name, text in FILES.items():
        builds.write(name, text)
    walk = Walk(builds, chance)
    used = 0
    for _ in range(STEPS):
        package = walk.change()
        before = builds.state()
        walk.step(package, seed)
        after = builds.state()
        used += any(before.get(name, after[name]) != after[name] for name in after)
    assert used > 3, f"TEST_SEED={seed}"
    assert len(builds.state()) > 5, f"TEST_SEED={seed}"
