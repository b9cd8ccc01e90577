import io
from pathlib import Path

import kernel_parts as parts
import pytest

from vimto.kernel.modules import Module, ModulePlan
from vimto.plan import initramfs
from vimto.plan.agent import Agent


def read_archive(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    entries = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        at = (at + 110 + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return entries
        entries[name] = (fields[1], data[at : at + fields[6]], (fields[9], fields[10]))
        at = (at + fields[6] + 3) // 4 * 4


@pytest.fixture
def plan(tmp_path: Path) -> ModulePlan:
    (tmp_path / "b.ko").write_bytes(b"BBB")
    (tmp_path / "a-x.ko.xz").write_bytes(parts.COMPRESSORS["xz"](b"A"))
    return ModulePlan(
        modules=(
            Module(name="b", path=tmp_path / "b.ko"),
            Module(name="a_x", path=tmp_path / "a-x.ko.xz"),
        )
    )


def test_what_is_in_the_archive(plan: ModulePlan) -> None:
    out = io.BytesIO()
    layer = {"usr/a": b"A", "boot/b": b"B", "usr/c": b"C"}
    initramfs.write_archive(out, b"agent", plan, layer)
    assert len(out.getvalue()) % 4 == 0
    assert read_archive(out.getvalue()) == {
        "dev": (0o040755, b"", (0, 0)),
        "dev/console": (0o020600, b"", (5, 1)),
        "init": (0o100755, b"agent", (0, 0)),
        "modules": (0o040755, b"", (0, 0)),
        "modules/order": (0o100644, b"b.ko\na_x.ko\n", (0, 0)),
        "modules/b.ko": (0o100644, b"BBB", (0, 0)),
        "modules/a_x.ko": (0o100644, b"A", (0, 0)),
        "layer": (0o040755, b"", (0, 0)),
        "layer/boot": (0o040755, b"", (0, 0)),
        "layer/boot/b": (0o100644, b"B", (0, 0)),
        "layer/usr": (0o040755, b"", (0, 0)),
        "layer/usr/a": (0o100644, b"A", (0, 0)),
        "layer/usr/c": (0o100644, b"C", (0, 0)),
    }


def test_the_archive_is_made_once(
    tmp_path: Path, plan: ModulePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent"
    path.write_bytes(b"agent")
    agent = Agent(path=path, digest="x")
    first = initramfs.build_initramfs(agent, plan, {}, cache=tmp_path / "cache")
    content = first.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(initramfs, "write_archive", None)
        assert initramfs.build_initramfs(agent, plan, {}, cache=tmp_path / "cache") == first
        path.touch()
        for module in plan.modules:
            module.path.touch()
        copy = Agent(path=tmp_path / "copy", digest="x")
        copy.path.write_bytes(b"agent")
        assert initramfs.build_initramfs(copy, plan, {}, cache=tmp_path / "cache") == first
    path.write_bytes(b"Agent")
    second = initramfs.build_initramfs(agent, plan, {}, cache=tmp_path / "cache")
    assert second != first
    assert initramfs.build_initramfs(agent, plan, {"a": b""}, cache=tmp_path / "cache") != second
    assert first.read_bytes() == content
