import bz2
import gzip
import lzma
from pathlib import Path

import kernel_parts as parts
import pytest

from vimto import compression
from vimto.errors import KernelError
from vimto.kernel import depmod, modules


def test_names_are_the_kernels_own() -> None:
    assert modules.normalise("kernel/drivers/char/hw_random/virtio-rng.ko.xz") == "virtio_rng"
    assert modules.normalise("9p.ko") == "9p"
    assert modules.normalise("virtio-rng") == "virtio_rng"


def test_a_module_comes_after_what_it_needs(tmp_path: Path) -> None:
    needs = {"9p": ("9pnet", "virtio-x"), "9pnet": (), "virtio_x": ()}
    parts.fill_modules(tmp_path, needs)
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    index = depmod.read_index(tmp_path, cache=tmp_path / "cache")
    plan = modules.resolve_modules(index, ("virtio-pci", "9p", "9pnet", "overlay"))
    assert [module.name for module in plan.modules] == ["virtio_x", "9pnet", "9p"]
    assert plan.modules[0].path.parent == tmp_path / "kernel"
    assert plan.builtin == ("virtio_pci",)
    assert plan.missing == ("overlay",)


def test_a_circle_ends(tmp_path: Path) -> None:
    parts.fill_modules(tmp_path, {"a": ("b",), "b": ("a",)})
    plan = modules.resolve_modules(depmod.read_index(tmp_path, cache=tmp_path / "c"), ("a",))
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
    assert depmod.read_facts(modules.read_module(path), path).depends == ("a", "b_c")


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
    monkeypatch.setattr(compression, "LARGEST", 1 << 20)
    with pytest.raises(KernelError, match="it unpacks to more than 1 MiB"):
        modules.read_module(path)


def test_a_module_that_is_no_elf(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="damaged"):
        depmod.read_facts(b"\x7fELF\x02\x01" + b"\xff" * 80, tmp_path / "x.ko")
    with pytest.raises(KernelError, match="not a 64-bit little-endian ELF"):
        depmod.read_facts(b"text", tmp_path / "x.ko")
