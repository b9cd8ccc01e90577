"""virtiofsd: which one, and how it is started."""

import os
from pathlib import Path

import pytest

from vimto.errors import KernelError
from vimto.qemu import virtiofsd
from vimto.qemu.backends import Directory
from vimto.qemu.virtiofsd import Server, find_virtiofsd


def make_daemon(path: Path, help_text: str) -> Path:
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{help_text}\nEND\n")
    path.chmod(0o755)
    return path


def test_the_server_in_rust_needs_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_daemon(tmp_path / "virtiofsd", "      --shared-dir <SHARED_DIR>")
    monkeypatch.setattr(virtiofsd, "PLACES", ("/nowhere/virtiofsd", str(path)))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert find_virtiofsd() == Server(str(path), is_rust=True)


def test_the_server_in_c_is_for_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_daemon(tmp_path / "virtiofsd", "    -o source=PATH   shared directory tree")
    unshare = make_daemon(tmp_path / "unshare", "")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(virtiofsd, "PLACES", (str(path),))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_virtiofsd() == Server(str(path), is_rust=False)
    unshare.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(KernelError, match="may not mount anything here") as caught:
        find_virtiofsd()
    assert "a container's root" in caught.value.hint and "kernels with 9p" in caught.value.hint
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(KernelError, match="serves root only"):
        find_virtiofsd()


@pytest.mark.parametrize("name", ["x,readonly=on", "b\\c"])
def test_a_server_s_command_line(name: str) -> None:
    writable, readonly = Directory(f"/{name}", readonly=False), Directory(f"/{name}")
    rust = ["/v", "--fd=7", f"--shared-dir=/{name}", "--sandbox=none"]
    server = Server("/v", is_rust=True)
    assert server.argv(writable, 7) == rust
    assert server.argv(readonly, 7) == [*rust, "--readonly"]
    escaped = name.replace("\\", "\\\\").replace(",", "\\,")
    server = Server("/v", is_rust=False)
    words = server.argv(writable, 7)
    assert words[:5] == ["/v", "--fd=7", "-f", "-o", f"source=/{escaped}"]
    around = server.argv(readonly, 7)
    assert around[:4] == ["unshare", "--mount", "sh", "-c"]
    assert around[5:] == [f"/{name}", *words]


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtiofsd, "PLACES", ("/nowhere/virtiofsd",))
    with pytest.raises(KernelError, match="virtiofsd is not installed") as caught:
        find_virtiofsd()
    assert "apt-get install virtiofsd" in caught.value.hint and "9p" in caught.value.hint
