import shutil
from pathlib import Path
from typing import Any

import pytest

from vimto.errors import AgentError
from vimto.plan import agent
from vimto.process import proc

MAIN = 'package main\n\nvar buildID string\n\nfunc main() { println("agent", buildID) }\n'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = tmp_path / "guest"
    source.mkdir()
    (source / "go.mod").write_text("module vimto/guest\n\ngo 1.21\n")
    (source / "main.go").write_text(MAIN)
    monkeypatch.setattr(agent, "source_directory", lambda: source)
    return source


needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="no Go here")


@needs_go
def test_the_program_knows_its_source(source: Path, tmp_path: Path) -> None:
    assert agent.find_agent(cache=tmp_path / "cache") is None
    built = agent.build_agent(cache=tmp_path / "cache")
    assert proc.run([str(built.path)]).stderr.decode() == f"agent {built.digest}\n"
    assert built.digest == agent.source_digest(source)
    assert agent.find_agent(cache=tmp_path / "cache") == built


@needs_go
def test_each_version_of_go_builds_once_whatever_it_is_started_by(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = agent.build_agent(cache=tmp_path)
    wrapper = tmp_path / "go"
    wrapper.write_text(f'#!/bin/sh\nexec "{shutil.which("go")}" "$@"\n')
    wrapper.chmod(0o755)
    run, ran = proc.run, []

    def record(argv: list[str], **options: Any) -> proc.Result:
        ran.append(argv[1:])
        return run(argv, **options)

    monkeypatch.setattr(proc, "run", record)
    assert agent.build_agent(cache=tmp_path) == first
    assert agent.build_agent(cache=tmp_path, go=str(wrapper)) == first
    assert ran == [["version"], ["version"]]
    wrapper.write_text("#!/bin/sh\necho go version go1.98 linux/amd64\n")
    with pytest.raises(FileNotFoundError):  # another version: this one builds nothing
        agent.build_agent(cache=tmp_path, go=str(wrapper))
    assert ran[3][0] == "build"
    (source / "main_test.go").write_text("package main\n")
    assert agent.build_agent(cache=tmp_path) == first


@needs_go
def test_the_users_go_settings_do_not_leak_in(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config/go").mkdir(parents=True)
    (tmp_path / "config/go/env").write_text("GOFLAGS=-nonsense\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GOFLAGS", "-mod=vendor -race")
    monkeypatch.setenv("GOEXPERIMENT", "nonsense")
    monkeypatch.setenv("GOOS", "plan9")
    monkeypatch.setenv("GOWORK", "/nonexistent/go.work")
    monkeypatch.setenv("GO111MODULE", "off")
    assert agent.build_agent(cache=tmp_path).path.exists()


@needs_go
def test_a_failed_build_shows_the_compilers_words(source: Path, tmp_path: Path) -> None:
    (source / "main.go").write_text("package main\n\nfunc main() { nonsense() }\n")
    with pytest.raises(AgentError) as caught:
        agent.build_agent(cache=tmp_path / "cache")
    assert any("nonsense" in line for line in caught.value.lines)
    assert [*(tmp_path / "cache/agent").glob("amd64-*")] == []


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("go version go1.19.8 linux/amd64", "Go 1.19.8"),
        ("go version go1.20 linux/amd64", "Go 1.20"),
        ("go version go1.21rc2 linux/amd64", ""),
        ("go version devel go1.27-abc linux/amd64", ""),
        ("go1.20.14", "Go 1.20.14"),
        ("something else", ""),
    ],
)
def test_an_old_go_is_one_sentence(version: str, old: str) -> None:
    if not old:
        return agent.check_go(version)
    with pytest.raises(AgentError) as caught:
        agent.check_go(version)
    sentence = f"{old} is too old: vimto builds its guest program with Go 1.21 or newer"
    assert caught.value.message == sentence
    assert "bookworm-backports" in caught.value.hint


def test_an_old_go_compiles_nothing(source: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text('#!/bin/sh\n[ "$1" = version ] || exit 9\necho go version go1.19.8 linux/amd64\n')
    go.chmod(0o755)
    with pytest.raises(AgentError, match=r"Go 1\.19\.8 is too old"):
        agent.build_agent(cache=tmp_path / "cache", go=str(go))


@pytest.mark.usefixtures("source")
def test_a_full_disk_is_not_blamed_on_go(source: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    words = "write out: no space left on device"
    version = "echo go version go1.98 linux/amd64"
    go.write_text(f'#!/bin/sh\n[ "$1" = build ] || exec {version}\necho {words} >&2; exit 1\n')
    go.chmod(0o755)
    with pytest.raises(AgentError) as caught:
        agent.build_agent(cache=tmp_path / "cache", go=str(go))
    assert caught.value.lines == (words,)
    assert caught.value.hint == "make room on that disk"


def test_without_go(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="go-of-nobody"):
        agent.build_agent(cache=tmp_path, go="go-of-nobody")


def test_the_digest_covers_names_and_contents(source: Path) -> None:
    digests = {agent.source_digest(source)}
    (source / "main.go").write_text(MAIN + "\n")
    digests.add(agent.source_digest(source))
    (source / "main.go").rename(source / "other.go")
    digests.add(agent.source_digest(source))
    (source / "sub").mkdir()
    (source / "sub/x.go").write_text("package sub\n")
    digests.add(agent.source_digest(source))
    assert len(digests) == 4
    (source / "sub/x_test.go").write_text("package sub\n")
    (source / "README").write_text("")
    assert agent.source_digest(source) in digests


def test_the_source_is_found_in_the_checkout() -> None:
    assert (agent.source_directory() / "go.mod").is_file()
