import struct
from pathlib import Path

import kernel_parts as parts
import pytest

from vimto.errors import KernelError
from vimto.kernel import bzimage


@pytest.mark.parametrize("how", parts.COMPRESSORS)
def test_every_compression_is_undone(tmp_path: Path, how: str) -> None:
    vmlinux = parts.make_vmlinux()
    image = tmp_path / "bzImage"
    image.write_bytes(parts.make_bzimage(vmlinux, how=how))
    bzimage.extract_vmlinux(image, tmp_path / "out/vmlinux")
    assert (tmp_path / "out/vmlinux").read_bytes() == vmlinux
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vmlinux"]


@pytest.mark.parametrize("how", parts.COMPRESSORS)
def test_damage_is_reported_and_leaves_nothing(tmp_path: Path, how: str) -> None:
    image = tmp_path / "bzImage"
    whole = parts.make_bzimage(parts.make_vmlinux(), how=how)
    payload = bytearray(whole[1056:-64])
    del payload[len(payload) // 2 : -4]
    image.write_bytes(parts.wrap_payload(bytes(payload)))
    with pytest.raises(KernelError, match="is damaged"):
        bzimage.extract_vmlinux(image, tmp_path / "vmlinux")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bzImage"]


def test_a_wrong_size_is_damage(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    packed = parts.COMPRESSORS["xz"](parts.make_vmlinux())
    image.write_bytes(parts.wrap_payload(packed + struct.pack("<I", 17)))
    with pytest.raises(KernelError, match="not 17"):
        bzimage.extract_vmlinux(image, tmp_path / "vmlinux")


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(parts.make_bzimage(parts.make_vmlinux())[:-100])
    with pytest.raises(KernelError, match="is truncated"):
        bzimage.extract_vmlinux(image, tmp_path / "vmlinux")


def test_an_unknown_compression_has_its_own_error(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(parts.wrap_payload(b"\x89LZO\0\r\n\x1a\n" + b"x" * 99))
    with pytest.raises(bzimage.UnknownCompressionError, match="89 4c 5a 4f"):
        bzimage.extract_vmlinux(image, tmp_path / "vmlinux")


def test_what_an_elf_says_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(parts.make_vmlinux(config="CONFIG_9P_FS=y\n", debug=True))
    assert bzimage.has_pvh_note(path)
    assert bzimage.read_release(path) == "6.7.8-made"
    assert bzimage.read_config(path) == "CONFIG_9P_FS=y\n"
    assert bzimage.has_debug_info(path)
    path.write_bytes(parts.make_vmlinux(pvh=False))
    assert not bzimage.has_pvh_note(path)
    assert not bzimage.has_debug_info(path)
    assert bzimage.read_config(path) == ""


def test_the_release_of_a_bzimage_is_in_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(parts.make_bzimage(b"x", release="5.10.0-46-amd64"))
    assert bzimage.is_bzimage(path.read_bytes()[:1024])
    assert bzimage.read_release(path) == "5.10.0-46-amd64"


def test_stripping_keeps_what_a_loader_needs(tmp_path: Path) -> None:
    path, out = tmp_path / "vmlinux", tmp_path / "out"
    path.write_bytes(parts.make_vmlinux(debug=True))
    bzimage.strip_vmlinux(path, out)
    assert out.stat().st_size == bzimage.loaded_size(path) < 1024
    assert out.read_bytes()[0x28:0x30] == b"\0" * 8  # e_shoff
    assert bzimage.has_pvh_note(out)
    assert not bzimage.has_debug_info(out)
    assert bzimage.read_release(out) == "6.7.8-made"


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 60])
def test_short_and_odd_files_are_no_kernels(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    assert not bzimage.is_bzimage(content)
    assert not bzimage.has_pvh_note(path)
    assert not bzimage.has_debug_info(path)
