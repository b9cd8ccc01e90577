"""A module that is built through the link cache, and without."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import need
from vimto import quoting
from vimto.plan.agent import build_agent


@dataclass(kw_only=True)
class Builds:
    """`directory` has the module, `links` what is kept; `environ` is added to the environment."""

    directory: Path
    links: Path
    wrapper: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def flag(self) -> str:
        """The flag that vimto gives go."""
        words = [os.fspath(self.wrapper), "link-cache", os.fspath(self.links)]
        return f"-toolexec={quoting.quote_go(words)}"

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def go(self, *words: str, status: int = 0) -> str:
        """Run go, and return what it wrote."""
        base = {**os.environ, "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local"}
        done = subprocess.run(
            ["go", *words],
            cwd=self.directory,
            env=base | self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def link(self, package: str, *flags: str, kept: bool = True) -> bytes:
        """Return the test binary of a package."""
        out = self.directory.parent / "out.test"
        self.go("test", "-c", *([self.flag] if kept else []), *flags, "-o", str(out), package)
        made = out.read_bytes()
        out.unlink()
        return made

    def state(self) -> dict[str, tuple[int, int]]:
        """Return for each name in `links` which file that is, and when it was used last."""
        found = {path.name: path.stat() for path in self.links.iterdir()}
        return {name: (each.st_ino, each.st_mtime_ns) for name, each in found.items()}


@pytest.fixture(scope="session")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest program, as vimto builds it for the host."""
    need("go")
    return build_agent(cache=tmp_path_factory.mktemp("agent")).path


@pytest.fixture
def builds(tmp_path: Path, wrapper: Path) -> Iterator[Builds]:
    """A module `m` without packages; afterwards nothing half-made may be left."""
    temporary = tmp_path / "tmp"
    for directory in (temporary, tmp_path / "m", tmp_path / "the links"):
        directory.mkdir()
    found = Builds(directory=tmp_path / "m", links=tmp_path / "the links", wrapper=wrapper)
    found.environ["TMPDIR"] = str(temporary)
    found.write("go.mod", "module m\n\ngo 1.21\n")
    yield found
    assert list(temporary.iterdir()) == []
    assert [name for name in found.state() if name.startswith(".")] == []
