import bz2
import gzip
import lzma
from pathlib import Path

import kernel_parts as parts
import pytest

from vimto.errors import KernelError
from vimto.kernel import modules, unpack


def test_names_are_the_kernels_own() -> None:
    assert modules.normalise("kernel/drivers/char/hw_random/virtio-rng.ko.xz") == "virtio_rng"
    assert modules.normalise("9p.ko") == "9p"
    assert modules.normalise("virtio-rng") == "virtio_rng"


def test_load_order_follows_modules_dep(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "kernel/9p.ko.xz: kernel/fscache.ko.xz kernel/netfs.ko.xz kernel/9pnet.ko.xz\n"
        "kernel/fscache.ko.xz: kernel/netfs.ko.xz\n"
        "kernel/netfs.ko.xz:\n"
        "kernel/9pnet.ko.xz:\n"
    )
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    index = modules.read_index(tmp_path)
    plan = modules.resolve_modules(index, ("virtio-pci", "9p", "9pnet", "overlay"))
    names = [module.name for module in plan.modules]
    assert names.index("netfs") < names.index("fscache") < names.index("9p")
    assert names.index("9pnet") < names.index("9p")
    assert len(names) == 4
    assert plan.modules[0].path.parent == tmp_path / "kernel"
    assert plan.builtin == ("virtio_pci",)
    assert plan.missing == ("overlay",)


def test_without_modules_dep_each_module_says_what_it_needs(tmp_path: Path) -> None:
    parts.fill_modules(tmp_path, {"9p": ("9pnet", "virtio-x"), "9pnet": (), "virtio_x": ()})
    plan = modules.resolve_modules(modules.read_index(tmp_path), ("9p",))
    assert [module.name for module in plan.modules] == ["9pnet", "virtio_x", "9p"]


def test_a_circle_ends(tmp_path: Path) -> None:
    parts.fill_modules(tmp_path, {"a": ("b",), "b": ("a",)})
    plan = modules.resolve_modules(modules.read_index(tmp_path), ("a",))
    assert {module.name for module in plan.modules} == {"a", "b"}


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("", lambda data: data),
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".zst", parts.zstd_compress),
    ],
)
def test_compressed_modules_are_unpacked(tmp_path: Path, suffix: str, pack: object) -> None:
    module = parts.make_module("a", "b-c")
    path = tmp_path / f"x.ko{suffix}"
    path.write_bytes(pack(module))  # type: ignore[operator]
    assert modules.read_module(path) == module
    assert modules.read_depends(modules.read_module(path), path) == ("a", "b_c")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_damaged_module_is_named(tmp_path: Path, suffix: str) -> None:
    packs = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": parts.zstd_compress}
    path = tmp_path / f"x.ko{suffix}"
    path.write_bytes(packs[suffix](parts.make_module())[:-9])
    with pytest.raises(KernelError, match=r"x\.ko"):
        modules.read_module(path)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst", ".bz2"])
def test_a_module_that_unpacks_without_end(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": parts.zstd_compress}
    pack = packs.get(suffix, bz2.compress)
    path = tmp_path / f"x.ko{suffix}"
    path.write_bytes(pack(bytes(4 << 20)))
    monkeypatch.setattr(unpack, "LARGEST", 1 << 20)
    with pytest.raises(KernelError, match="it unpacks to more than 1 MiB"):
        modules.read_module(path)


def test_a_module_that_is_no_elf(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="damaged"):
        modules.read_depends(b"\x7fELF\x02\x01" + b"\xff" * 80, tmp_path / "x.ko")
    with pytest.raises(KernelError, match="no ELF"):
        modules.read_depends(b"text", tmp_path / "x.ko")
