import gzip
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import kernel_parts as parts
import pytest

from tests.conftest import need
from vimto.cache import entry
from vimto.kernel import depmod, modules, trie

INFO = {
    "kernel/drivers/net/tun.ko": ("", "alias=char-major-10-200", "alias=devname:net/tun"),
    "kernel/fs/jbd2/jbd2.ko": ("", "softdep=pre: crypto-crc32c"),
    "kernel/fs/ext4/ext4.ko.gz": ("jbd2,mb-cache", "alias=fs-ext4", "softdep=post: x"),
    "kernel/fs/mb-cache.ko": ("crc16", "alias=pci:v0000-[a-c]*"),
    "kernel/lib/crc16.ko": ("",),
    "kernel/lib/circle.ko": ("circle",),
}


def write_module(path: Path, depends: str, *more: str, symbols: tuple[str, ...] = ()) -> None:
    info = "\0".join(["license=GPL", f"depends={depends}", *more, ""]).encode()
    table = "".join(f"{symbol}\0" for symbol in symbols).encode()
    data = parts.make_elf(sections={".modinfo": info, "__ksymtab_strings": table})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "lib/modules/6.7.8"
    for name, (depends, *more) in INFO.items():
        symbols = ("crc16", "", "crc16_table") if "crc16" in name else ()
        write_module(found / name, depends, *more, symbols=symbols)
    (found / "modules.builtin").write_text("kernel/net/unix/unix.ko\nkernel/fs/ext2.ko\n")
    (found / "modules.builtin.modinfo").write_bytes(
        b"unix.license=GPL\0unix.alias=net-pf-1\0ext2.alias=fs-ext2\0"
    )
    (found / "modules.order").write_text("kernel/lib/crc16.ko\nkernel/fs/mb-cache.ko\n")
    return found


def files_of(directory: Path, cache: Path) -> dict[str, str]:
    index = depmod.read_index(directory, cache=cache)
    found = depmod.guest_files(index, None)
    return {name: os.fsdecode(data) for name, data in found.items() if ".bin" not in name}


def facts(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_the_files_of_depmod(directory: Path, tmp_path: Path) -> None:
    files = files_of(directory, tmp_path / "cache")
    assert sorted(facts(files["modules.dep"])) == [
        "kernel/drivers/net/tun.ko:",
        "kernel/fs/ext4/ext4.ko.gz: kernel/fs/mb-cache.ko kernel/lib/crc16.ko"
        " kernel/fs/jbd2/jbd2.ko",
        "kernel/fs/jbd2/jbd2.ko:",
        "kernel/fs/mb-cache.ko: kernel/lib/crc16.ko",
        "kernel/lib/circle.ko:",
        "kernel/lib/crc16.ko:",
    ]
    # In the order of modules.order: of two modules for one alias the first one counts.
    assert facts(files["modules.dep"])[0].startswith("kernel/lib/crc16.ko")
    assert "alias fs-ext4 ext4" in facts(files["modules.alias"])
    assert facts(files["modules.devname"]) == ["tun net/tun c10:200"]
    assert sorted(facts(files["modules.softdep"])) == [
        *("softdep ext4 post: x", "softdep jbd2 pre: crypto-crc32c"),
    ]
    assert facts(files["modules.symbols"]) == [
        *("alias symbol:crc16 crc16", "alias symbol:crc16_table crc16"),
    ]


def test_libkmod_reads_the_index(directory: Path, tmp_path: Path) -> None:
    need("modprobe")
    index = depmod.read_index(directory, cache=tmp_path / "cache")
    for name, data in depmod.guest_files(index, None).items():
        (directory / name).write_bytes(data)

    def shown(name: str) -> list[str]:
        words = ["modprobe", "-C", "/dev/null", "-d", str(tmp_path), "-S", "6.7.8", "-D", name]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        return [line.split()[-1].rpartition("/")[2] for line in done.stdout.splitlines()]

    assert shown("fs-ext4") == ["jbd2.ko", "crc16.ko", "mb-cache.ko", "ext4.ko.gz"]
    assert shown("pci:v0000-bx") == ["crc16.ko", "mb-cache.ko"]
    assert shown("symbol:crc16") == ["crc16.ko"]
    assert shown("unix") == shown("net-pf-1") == ["unix"]


@pytest.mark.parametrize("stale", ["", "kernel/gone.ko:\n", "kernel/lib/crc16.ko: kernel/x.ko\n"])
def test_an_index_that_is_there_hides_nothing(directory: Path, tmp_path: Path, stale: str) -> None:
    expected = files_of(directory, tmp_path / "one")
    (directory / "modules.dep").write_text(stale)
    (directory / "modules.dep.bin").write_bytes(b"")
    assert files_of(directory, tmp_path / "two") == expected


def test_it_is_made_once_and_again_for_other_contents(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = depmod.read_index(directory, cache=cache)
    moved = tmp_path / "elsewhere"
    shutil.copytree(directory, moved, copy_function=shutil.copyfile)
    with monkeypatch.context() as patch:
        patch.setattr(depmod, "_write", None)
        assert depmod.read_index(moved, cache=cache).place == first.place
    # The same size and times, for a reproducible build sets them.
    path = directory / "kernel/fs/ext4/ext4.ko.gz"
    before = path.stat()
    write_module(path, "jbd2,mb-cache", "alias=fs-ext4", "softdep=post: y")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert depmod.read_index(directory, cache=cache).place != first.place


def test_nobody_needs_the_entry_any_more_once_it_is_read(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where somebody prunes the cache just after it was made."""
    make_index, made = depmod._make_index, []

    def make_and_lose(*arguments: Any) -> Path:
        made.append(make_index(*arguments))
        if len(made) == 1:
            assert entry.remove(made[0])
        return made[-1]

    monkeypatch.setattr(depmod, "_make_index", make_and_lose)
    index = depmod.read_index(directory, cache=tmp_path / "cache")
    assert len(made) == 2
    assert entry.remove(index.place)
    assert b"ext4" in depmod.guest_files(index, None)["modules.dep"]


def test_updates_come_before_the_kernels_own(directory: Path, tmp_path: Path) -> None:
    write_module(directory / "updates/dkms/crc16.ko", "")
    write_module(directory / "weak-updates/tun.ko", "")
    index = depmod.read_index(directory, cache=tmp_path / "cache")
    assert index.files["crc16"] == directory / "updates/dkms/crc16.ko"
    assert index.files["tun"] == directory / "kernel/drivers/net/tun.ko"
    # Who builds a module in there again need not run depmod.
    assert {directory, directory / "updates/dkms", directory / "kernel"} <= set(index.sources)


def test_what_is_no_module_is_passed_over(directory: Path, tmp_path: Path) -> None:
    os.mkfifo(directory / "kernel/fifo.ko")
    (directory / "kernel/loop.ko").symlink_to("loop.ko")
    (directory / "kernel/empty.ko").write_bytes(b"")
    (directory / "kernel/text.ko.gz").write_text("no module")
    with open(directory / "kernel/sparse.ko", "wb") as file:
        file.truncate(100 << 30)
    index = depmod.read_index(directory, cache=tmp_path / "cache")
    assert {"empty", "text"} <= set(index.files)
    assert not {"fifo", "loop", "sparse"} & set(index.files)
    plan = modules.resolve_modules(index, ("ext4", "empty", "fifo"))
    assert plan.missing == ("fifo",)


def test_what_is_needed_and_not_there_is_known(directory: Path, tmp_path: Path) -> None:
    (directory / "kernel/lib/crc16.ko").unlink()
    index = depmod.read_index(directory, cache=tmp_path / "cache")
    assert modules.resolve_modules(index, ("ext4",)).missing == ("crc16",)


def test_modules_that_lie_elsewhere_in_the_guest(directory: Path, tmp_path: Path) -> None:
    index = depmod.read_index(directory, cache=tmp_path / "cache")
    files = depmod.guest_files(index, directory)
    dep = os.fsdecode(files["modules.dep"]).splitlines()
    assert f"{directory}/kernel/lib/crc16.ko:" in dep
    needs = f"{directory}/kernel/fs/mb-cache.ko: {directory}/kernel/lib/crc16.ko"
    assert needs in dep
    assert needs.encode() in files["modules.dep.bin"]
    assert b"kernel/net/unix/unix.ko" in files["modules.builtin"]


def test_no_modules_elsewhere_are_no_lines(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    index = depmod.read_index(tmp_path / "modules", cache=tmp_path / "cache")
    assert depmod.guest_files(index, tmp_path / "modules")["modules.dep"] == b""


def test_a_trie_of_nothing_and_of_letters_that_do_not_fit() -> None:
    empty = trie.write_trie({})
    assert struct.unpack(">III", empty[:12]) == (0xB007F457, 0x00020001, 12)
    assert trie.write_trie({"é": [(0, "x")]}) == empty
    whole = trie.write_trie({"a": [(1, "second"), (0, "first")], "ab": [(0, "third")]})
    assert whole.index(b"first\0") < whole.index(b"second\0")
