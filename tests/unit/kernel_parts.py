"""Small made kernels, modules and packages for the tests of `vimto.kernel`."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from vimto import compression

BANNER = b"Linux version 6.7.8-made (someone@somewhere) #1\0"


def make_elf(
    *,
    segments: list[tuple[int, bytes]] | None = None,
    sections: Mapping[str, bytes] | None = None,
) -> bytes:
    """A 64-bit ELF: program headers (kind, content), then sections after them."""
    segments = segments or []
    sections = sections or {}
    names = b"\0" + b"".join(name.encode() + b"\0" for name in [*sections, ".shstrtab"])
    body = bytearray(64 + 56 * len(segments))
    headers = bytearray()
    for kind, content in segments:
        headers += struct.pack("<IIQQQQQQ", kind, 5, len(body), 0, 0, len(content), 0, 8)
        body += content
    body[64 : 64 + len(headers)] = headers
    table = bytearray(64)
    for name, content in {**sections, ".shstrtab": names}.items():
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        table += struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, len(body), len(content), 0, 0, 1, 0)
        body += content
    count = len(sections) + 2
    shoff = len(body) if sections else 0
    body[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, shoff, 0, 64, 56, len(segments), 64,
        count if sections else 0, count - 1 if sections else 0,
    )  # fmt: skip
    return bytes(body + (table if sections else b""))


def make_vmlinux(
    *, pvh: bool = True, banner: bytes = BANNER, config: str = "", debug: bool = False
) -> bytes:
    note = struct.pack("<III", 4, 8, 18 if pvh else 2) + b"Xen\0" + b"\0" * 8
    text = b"\0" * 100 + banner
    if config:
        text += b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED"
    sections = {".debug_info": b"d" * (2 << 20), ".symtab": b"s"} if debug else None
    return make_elf(segments=[(1, text), (4, note)], sections=sections)


def lz4_literals(data: bytes) -> bytes:
    """`data` as one block of literals in lz4's legacy frame."""
    length = len(data)
    token = bytes([min(length, 15) << 4])
    rest = length - 15
    more = b"" if rest < 0 else b"\xff" * (rest // 255) + bytes([rest % 255])
    block = token + more + data
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


def zstd_compress(data: bytes) -> bytes:
    return bytes(compression.zstd().compress(data))


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstd_compress,
    "lz4": lz4_literals,
}


def make_bzimage(vmlinux: bytes, *, how: str = "gzip", release: str = "6.7.8-made") -> bytes:
    payload = COMPRESSORS[how](vmlinux)
    if how != "gzip":
        payload += struct.pack("<I", len(vmlinux))
    return wrap_payload(payload, release=release)


def wrap_payload(payload: bytes, *, release: str = "6.7.8-made") -> bytes:
    head = bytearray(1024)  # the boot sector and one setup sector
    head[0x1F1] = 1
    head[0x1FE:0x206] = b"\x55\xaa\xeb\x6aHdrS"
    head[0x20E:0x210] = struct.pack("<H", 0x100)
    text = f"{release} (someone@somewhere) #1".encode() + b"\0"
    head[0x300 : 0x300 + len(text)] = text
    head[0x248:0x250] = struct.pack("<II", 32, len(payload))
    return bytes(head) + b"\x90" * 32 + payload + b"\0" * 64


def make_module(*depends: str) -> bytes:
    info = b"license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"
    return make_elf(sections={".text": b"\x90" * 8, ".modinfo": info})


def fill_modules(directory: Path, modules: Mapping[str, tuple[str, ...]]) -> None:
    """Write `kernel/NAME.ko` for each module and its dependencies."""
    (directory / "kernel").mkdir(parents=True)
    for name, depends in modules.items():
        (directory / "kernel" / f"{name}.ko").write_bytes(make_module(*depends))


NINE_P = {
    "virtio_pci": ("virtio",),
    "virtio": (),
    "virtio_console": ("virtio",),
    "overlay": (),
    "virtio-rng": (),
    "virtio_net": (),
    "configfs": (),
    "binfmt_misc": (),
    "fuse": (),
    "9pnet": (),
    "9pnet_virtio": ("9pnet", "virtio"),
    "9p": ("9pnet",),
}

VIRTIOFS = {
    **{name: needs for name, needs in NINE_P.items() if not name.startswith("9p")},
    "virtiofs": ("fuse",),
}


def make_deb(members: list[tarfile.TarInfo | tuple[str, bytes]], *, how: str = "xz") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                info.mode = 0o4755 if member[0].endswith(".sh") else 0o600
                archive.addfile(info, io.BytesIO(member[1]))
    suffix = {"gzip": ".gz", "xz": ".xz", "zstd": ".zst", "none": ""}[how]
    data = raw.getvalue() if how == "none" else COMPRESSORS[how](raw.getvalue())
    out = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"xyz"),
                          (f"data.tar{suffix}", data)):  # fmt: skip
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out
