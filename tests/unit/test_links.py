"""Links that are kept: when go is told of them, and how many stay."""

import fcntl
import os
from pathlib import Path

import pytest

from vimto.cache.links import list_links, prune_links
from vimto.config import Config, load_config
from vimto.errors import AgentError
from vimto.go.args import parse_build_flags, parse_go
from vimto.go.delve import parse_dlv
from vimto.go.tool import GoEnv
from vimto.plan import links as plan_links
from vimto.plan.links import kept_links
from vimto.settings import parse_flags


def test_the_longest_unused_are_removed_past_the_limit(tmp_path: Path) -> None:
    for age, name in enumerate(("a", "b", "c", "d")):
        (tmp_path / name).write_bytes(b"x" * 4096)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / ".e.1~").write_bytes(b"left by a killed linker")
    with (tmp_path / ".f.1~").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        assert [link.name for link in prune_links(str(tmp_path), 3 * 4096)] == ["d"]
        assert sorted(path.name for path in tmp_path.iterdir()) == [".f.1~", "a", "b", "c"]
    assert [link.name for link in prune_links(str(tmp_path), 1 << 30, before=999)] == ["c"]
    assert [link.name for link in list_links(str(tmp_path))] == ["a", "b"]
    assert [link.name for link in prune_links(str(tmp_path), 0)] == ["b", "a"]
    assert prune_links(str(tmp_path / "none"), 0) == []


# -- when go is told


def _env(goflags: str = "") -> GoEnv:
    names = dict.fromkeys(GoEnv.__dataclass_fields__, "")
    return GoEnv(**(names | {"gohostarch": "amd64", "goflags": goflags}))


def _config(cache: Path, *flags: str) -> Config:
    parsed, _ = parse_flags(["-cache-dir", str(cache), *flags])
    return load_config(parsed, {}, cache)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_links, "_find_program", lambda *_: "/p")


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("line", "goflags", "flags", "told"),
    [
        ("go test", "", "", True),
        ("go test -a=false", "-race", "-link-cache", True),
        ("go test", "", "-no-link-cache", False),
        ("go test", "", "-link-limit 0", False),
        ("go test -toolexec=mine", "", "", False),
        ("go test -toolexec= ./...", "", "", False),
        ("go run -toolexec mine .", "", "", False),
        ("go test", "-toolexec=mine", "", False),
        ("go test", "--toolexec=mine", "", False),
        ("go test -a", "", "", False),
        ("go test", "-a", "", False),
        ("go test -args -toolexec=mine", "", "", True),
    ],
)
def test_who_says_how_tools_are_started(
    tmp_path: Path, line: str, goflags: str, flags: str, told: bool
) -> None:
    config = _config(tmp_path, *flags.split())
    command = parse_go(line.split(), goflags=goflags)
    with kept_links(config, _env(goflags), command.flags) as found:
        assert found == ([f"-toolexec=/p link-cache {tmp_path}/links"] if told else [])
        words = command.with_exec(["E"], more=found)
    assert words[: 3 + told] == ["go", command.verb, "-exec=E", *found]


@pytest.mark.usefixtures("program")
def test_dlv_s_build_flags_count(tmp_path: Path) -> None:
    config = _config(tmp_path)
    for text, told in (("-toolexec=mine", False), ("-C .. -tags x", True), ("", True)):
        command = parse_dlv(["debug", "--build-flags", text, "./p"])
        flags = parse_build_flags(command.build_flags)
        with kept_links(config, _env(), flags) as found:
            assert bool(found) == told
            words = command.build("go", "/o", found)
        chdir = ["-C", ".."] if "-C" in text else []
        assert words[: 2 + len(chdir + found)] == ["go", "build", *chdir, *found]


def test_trouble_is_nobody_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise AgentError("no Go")

    monkeypatch.setattr(plan_links, "build_agent", fail)
    with kept_links(_config(tmp_path), _env(), ()) as found:
        assert found == []
    monkeypatch.setattr(plan_links, "_find_program", lambda *_: '/it\'s "here"')
    with kept_links(_config(tmp_path), _env(), ()) as found:
        assert found == []
    monkeypatch.setattr(plan_links, "_find_program", lambda *_: "/p")
    (tmp_path / "cache").write_text("no directory")
    with kept_links(_config(tmp_path)._replace(cache_dir=tmp_path / "cache"), _env(), ()) as found:
        assert found == []


@pytest.mark.usefixtures("program")
def test_afterwards_the_longest_unused_go(tmp_path: Path) -> None:
    config = _config(tmp_path, "-link-limit", "4096")
    with kept_links(config, _env(), ()):
        for name in ("new", "old", "older"):
            (tmp_path / "links" / name).write_bytes(b"x" * 4096)
        os.utime(tmp_path / "links/old", (9, 9))
        os.utime(tmp_path / "links/older", (8, 8))
    assert [link.name for link in list_links(str(tmp_path / "links"))] == ["new"]
