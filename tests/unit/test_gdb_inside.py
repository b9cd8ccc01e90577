"""What needs no gdb of the part that runs inside gdb."""

import gzip
import io
import lzma
from pathlib import Path

from vimto.gdb import inside


def test_modules_by_their_kernel_names(tmp_path: Path) -> None:
    for name in ("net/virtio-net.ko", "9p.ko.xz", "a.ko.zst", "modules.dep", "b.kob"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = inside.find_modules(str(tmp_path))
    assert sorted(found) == ["9p", "a", "virtio_net"]
    assert found["virtio_net"] == str(tmp_path / "net/virtio-net.ko")


def test_compressed_modules(tmp_path: Path) -> None:
    for path, data in (
        (tmp_path / "m.ko.xz", lzma.compress(b"module")),
        (tmp_path / "m.ko.gz", gzip.compress(b"module")),
    ):
        path.write_bytes(data)
        out = io.BytesIO()
        inside.unpack(str(path), out)
        assert out.getvalue() == b"module"


def test_bytes_of_a_program_by_address() -> None:
    # The ELF header itself is loaded at the first segment's address: 0 in a PIE.
    assert inside._read_elf("/bin/true", 0, 4) == b"\x7fELF"
    assert inside._read_elf("/bin/true", 1 << 60, 4) == b""
