"""`vimto go test` links once: what is kept, and who else may say how go starts its tools."""

import os
from pathlib import Path

import pytest

from tests.vm.conftest import Module, Vimto
from vimto.config import load_config


@pytest.fixture
def links(vimto: Vimto, tmp_path: Path) -> Path:
    """Where links are kept, for this test alone, in a cache that is the shared one otherwise."""
    vimto("exec", "true").check()  # so that everything is there
    shared = load_config({}, os.environ, os.sep).cache_dir
    own = tmp_path / "cache"
    own.mkdir()
    for kind in shared.iterdir():
        if kind.name != "links":
            (own / kind.name).symlink_to(kind)
    vimto.variables = {**vimto.variables, "VIMTO_CACHE_DIR": str(own)}
    return own / "links"


def state(links: Path) -> dict[str, tuple[int, int]]:
    """Return which file each entry is, and when it was used last."""
    found = {path.name: path.stat() for path in links.iterdir()}
    return {name: (each.st_ino, each.st_mtime_ns) for name, each in found.items()}


def test_ten_packages_are_linked_once(vimto: Vimto, module: Module, links: Path) -> None:
    for number in range(10):
        body = f"func TestIt(t *testing.T) {{ t.Log({number}) }}"
        module.test(f"p{number}/p_test.go", body)
    first = vimto.go("./...").check()
    made = state(links)
    assert len(made) == 10
    second = vimto.go("./...").check()
    assert first.text.count("ok  ") == second.text.count("ok  ") == 10
    assert state(links).keys() == made.keys()
    for name, (inode, used) in state(links).items():
        assert inode == made[name][0], "linked again"
        assert used > made[name][1]


def test_a_toolexec_of_the_user_s(vimto: Vimto, module: Module, links: Path) -> None:
    module.test("one_test.go", "func TestIt(t *testing.T) {}")
    log = module.root / "log"
    mine = module.write("mine", f'#!/bin/sh\necho "$1" >>{log}\nexec "$@"\n')
    mine.chmod(0o755)
    vimto.go("-run", "xxx", env={"GOFLAGS": f"-toolexec={mine}"}).check()
    assert any(line.endswith("/link") for line in log.read_text().splitlines())
    assert not links.exists()
