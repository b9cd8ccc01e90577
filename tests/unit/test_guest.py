"""The guest program's packages: imports point one way, and what is built from them is light."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need
from vimto.plan import agent

ROOT = Path(__file__).parents[2]
GUEST = ROOT / "guest"

# A package imports from the rows above its own, and from no other.
ROWS = (
    ("sys",),
    ("console", "wire", "process", "network", "dump", "linkcache"),
    ("wiretest",),
    ("forward", "streams", "mounts", "modules", "warmup"),
    ("run",),
    ("main",),
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}

# What of the standard library becomes part of the program. In a restored machine under emulation
# all code is translated when it first runs, so `encoding/json`, `regexp` and the like stay out.
STANDARD = """
bufio bytes compress/gzip encoding/binary errors fmt hash/crc32 hash/fnv io io/fs math net os
os/signal path/filepath runtime runtime/debug sort strconv strings sync sync/atomic syscall time
unicode/utf8 unsafe
"""

FILES = sorted(path.relative_to(GUEST) for path in GUEST.rglob("*.go"))
BUILT = [
    path for path in FILES if not path.name.endswith("_test.go") and "wiretest" not in path.parts
]


def package_of(path: Path) -> str:
    return path.parts[1] if path.parts[0] == "internal" else "main"


def imports_of(path: Path) -> set[str]:
    """Return the packages that a Go file imports."""
    text = (GUEST / path).read_text()
    groups = re.findall(r'^import \(\n(.*?)^\)|^import (".*")', text, re.MULTILINE | re.DOTALL)
    return {name for pair in groups for name in re.findall(r'"(.+?)"', "".join(pair))}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_upward(path: Path) -> None:
    here = package_of(path)
    assert here in RANK, "a new package needs a place in ROWS"
    for name in imports_of(path):
        if name.startswith("vimto/guest/internal/"):
            other = name.rpartition("/")[2]
            assert RANK[other] < RANK[here], f"{here} imports {other}"


def test_the_program_is_made_of_light_packages() -> None:
    found = {name for path in BUILT for name in imports_of(path) if not name.startswith("vimto/")}
    assert sorted(found) == STANDARD.split()


@pytest.mark.parametrize("path", BUILT, ids=str)
def test_nothing_runs_before_main(path: Path) -> None:
    text = (GUEST / path).read_text()
    assert not re.search(r"^func init\(", text, re.MULTILINE)


def test_its_own_tests() -> None:
    need("go")
    environ = {
        **os.environ,
        "GOFLAGS": "",
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    words = ["go", "test", "./..."]
    done = subprocess.run(
        words, cwd=GUEST, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions(path: Path) -> None:
    text = (GUEST / path).read_text()
    found = re.finditer(r"^func [^\n]*(?: }$|\n.*?^}$)", text, re.MULTILINE | re.DOTALL)
    for match in found:
        lines = match[0].count("\n") + 1
        assert lines <= 60, f"{match[0].partition('{')[0]}has {lines} lines"


def test_the_build_depends_on_each_file_of_the_source() -> None:
    keyed = {path.relative_to(GUEST) for path in agent.source_files(GUEST)}
    source = {path.relative_to(GUEST) for path in GUEST.rglob("*") if path.is_file()}
    assert {path for path in source - keyed if not path.name.endswith("_test.go")} == set()
