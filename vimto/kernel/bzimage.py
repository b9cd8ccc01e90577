"""Kernel images: the compressed bzImage, the ELF `vmlinux` inside it, and what each says of itself.

The layout of a bzImage is Documentation/arch/x86/boot.rst of the kernel; the offsets below are
its "setup header". Entering the extracted ELF through its PVH note halves the boot time under
emulation: no BIOS, no decompression by emulated code (8.4 against 4.3 s for Debian's 6.1).
"""

import lzma
import mmap
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vimto.cache import entry
from vimto.errors import KernelError
from vimto.files import open_file, read_file
from vimto.kernel import unpack

# A `vmlinux` with debug information for everything, and the sanitizers, has 2 GB.
LARGEST = 8 << 30
_LARGEST_BZIMAGE = 1 << 30

_SETUP_SECTORS = 0x1F1
_BOOT_FLAG = 0x1FE
_MAGIC = 0x202
_KERNEL_VERSION = 0x20E
_PAYLOAD = 0x248
_HEADER_SIZE = 0x250

_PT_LOAD = 1
_PT_NOTE = 4
_XEN_PHYS32_ENTRY = 18  # XEN_ELFNOTE_PHYS32_ENTRY, include/xen/interface/elfnote.h


class UnknownCompressionError(KernelError):
    """The kernel can be booted, but only its own code can unpack it (LZO)."""


def is_bzimage(head: bytes) -> bool:
    """Say whether a file that begins with `head` (at least 0x206 bytes) is an x86 bzImage."""
    return head[_BOOT_FLAG:0x200] == b"\x55\xaa" and head[_MAGIC : _MAGIC + 4] == b"HdrS"


def is_elf(head: bytes) -> bool:
    """Say whether a file that begins with `head` is a 64-bit little-endian ELF file."""
    return head[:6] == b"\x7fELF\x02\x01"


def read_head(path: Path) -> bytes:
    """Return the first KiB of `path`; raises `KernelError`, with a hint, if it's unreadable."""
    try:
        with open_file(path, LARGEST) as file:
            return file.read(1024)
    except PermissionError as exc:
        raise KernelError(
            f"the kernel `{path}` cannot be read: {exc.strerror}",
            hint=f"Ubuntu lets only root read it; `sudo chmod +r {path}` changes that until the "
            f"next update, `sudo dpkg-statoverride --update --add root root 0644 {path}` for good",
        ) from exc
    except OSError as exc:
        raise KernelError(f"the kernel `{path}` cannot be read: {exc.strerror}") from exc


def read_release(path: Path) -> str:
    """Return the kernel's release (what `uname -r` will print), or "" where none is found."""
    head = read_head(path)
    if is_bzimage(head):
        offset = struct.unpack_from("<H", head, _KERNEL_VERSION)[0] + 0x200
        with open_file(path, LARGEST) as file:
            file.seek(offset)
            text = file.read(256).split(b"\0")[0].decode("ascii", "replace")
        return text.split(" ")[0]
    if not is_elf(head):
        return ""
    with _mapped(path) as data:
        # Symbols and debug information, which come last, need not be searched.
        found = re.compile(rb"Linux version (\d[!-~]*) ").search(data, 0, loaded_size(path))
        return found[1].decode("ascii") if found else ""


def read_config(path: Path) -> str:
    """Return the configuration built into the ELF `path` (CONFIG_IKCONFIG), "" without one."""
    with _mapped(path) as data:
        start = data.find(b"IKCFG_ST\x1f\x8b")
        if start < 0:
            return ""
        end = data.find(b"IKCFG_ED", start)
        packed = data[start + 8 : end if end > 0 else start + 8 + (1 << 20)]
    try:
        return zlib.decompressobj(31).decompress(packed).decode("utf-8", "replace")
    except zlib.error:
        return ""


def extract_vmlinux(bzimage: Path, out: Path) -> None:
    """Write the ELF inside `bzimage` to `out`, which appears whole or not at all.

    Nothing is stripped; what the kernel's build put in is a stripped ELF. Raises `KernelError`
    for a file that is no bzImage or is damaged, `UnknownCompressionError` where we cannot unpack.
    """
    if not is_bzimage(read_head(bzimage)):
        raise KernelError(f"`{bzimage}` is not an x86 bzImage")
    try:
        data = read_file(bzimage, _LARGEST_BZIMAGE)
    except OSError as exc:
        raise KernelError(f"the kernel `{bzimage}` cannot be read: {exc.strerror}") from exc
    start, length = struct.unpack_from("<II", data, _PAYLOAD)
    start += ((data[_SETUP_SECTORS] or 4) + 1) * 512
    payload = data[start : start + length]
    if len(payload) < length or length < 8:
        raise KernelError(f"`{bzimage}` is truncated: its kernel ends at byte {start + length}")
    vmlinux = _decompress(payload, bzimage)
    if not is_elf(vmlinux):
        raise KernelError(f"`{bzimage}` does not contain a 64-bit ELF kernel")
    with entry.new_file(out) as temporary:
        temporary.write_bytes(vmlinux)


def _decompress(payload: bytes, name: Path) -> bytes:
    how = next((how for magic, how in _COMPRESSIONS if payload.startswith(magic)), None)
    if how is None:
        raise UnknownCompressionError(
            f"`{name}` is compressed in an unknown way (it begins with {payload[:4].hex(' ')})"
        )
    # The kernel's build appends the size to every format but gzip, which has it by itself
    # (scripts/Makefile.lib, size_append).
    size = struct.unpack_from("<I", payload, len(payload) - 4)[0]
    try:
        data = how(payload if how is unpack.gunzip else payload[:-4])
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as exc:
        raise KernelError(f"`{name}` is damaged: {exc}") from exc
    if len(data) != size:
        raise KernelError(f"`{name}` is damaged: it unpacks to {len(data)} bytes, not {size}")
    return data


def unpack_lz4(data: bytes) -> bytes:
    """Decompress lz4's "legacy" frame, the only one the kernel's build makes (`lz4 -l`).

    The format is a magic number, then blocks: u32 size, then sequences of literals and copies.
    Written out here since it is small and the alternative is one more dependency for one flavour
    of one distribution (Debian's `cloud` kernels); 53 MB take about 3 s, once per kernel.
    Raises `ValueError` for damaged data.
    """
    out = bytearray()
    at = 4
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if size == 0x184C2102:  # frames may follow one another
            continue
        if at + size > len(data):
            raise ValueError("an lz4 block ends too early")
        _unpack_lz4_block(data, at, at + size, out)
        if len(out) > unpack.LARGEST:
            raise unpack.too_large()
        at += size
    return bytes(out)


def _unpack_lz4_block(data: bytes, at: int, end: int, out: bytearray) -> None:
    # This loop runs ten million times for one kernel: no calls but `+=` and slices.
    try:
        while at < end:
            token = data[at]
            at += 1
            count = token >> 4
            if count == 15:
                while (more := data[at]) == 255:
                    count += 255
                    at += 1
                count += more
                at += 1
            if count:
                out += data[at : at + count]
                at += count
            if at >= end:
                return  # the last sequence has literals only
            offset = data[at] | data[at + 1] << 8
            at += 2
            count = (token & 15) + 4
            if count == 19:
                while (more := data[at]) == 255:
                    count += 255
                    at += 1
                count += more
                at += 1
            start = len(out) - offset
            if offset == 0 or start < 0:
                raise ValueError("an lz4 copy reaches before the start")
            if count <= offset:
                out += out[start : start + count]
            else:  # the copy overlaps what it writes: a repeated pattern
                out += (out[start:] * (count // offset + 1))[:count]
    except IndexError:
        raise ValueError("an lz4 block ends too early") from None


_COMPRESSIONS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", unpack.gunzip),
    (b"\xfd7zXZ\x00", unpack.unxz),
    (b"\x28\xb5\x2f\xfd", unpack.unzstd),
    (b"\x02\x21\x4c\x18", unpack_lz4),
    (b"BZh", unpack.bunzip2),
    (b"\x5d\x00\x00", unpack.unxz),
)


class Segment(NamedTuple):
    """One program header of an ELF file, offsets and sizes in bytes."""

    kind: int
    offset: int
    size: int


def has_pvh_note(vmlinux: Path) -> bool:
    """Say whether QEMU can enter the ELF `vmlinux` directly (CONFIG_PVH)."""
    with open_file(vmlinux, LARGEST) as file:
        for segment in _segments(file):
            if segment.kind == _PT_NOTE:
                notes = _notes(_read_at(file, segment.offset, segment.size))
                if (b"Xen\0", _XEN_PHYS32_ENTRY) in notes:
                    return True
    return False


def loaded_size(vmlinux: Path) -> int:
    """Return where in the ELF `vmlinux` the bytes end that a loader needs.

    Beyond them are symbols and debug information, which a linker puts last.
    """
    with open_file(vmlinux, LARGEST) as file:
        return max((segment.offset + segment.size for segment in _segments(file)), default=0)


def strip_vmlinux(vmlinux: Path, out: Path) -> None:
    """Write the part of the ELF `vmlinux` that a loader needs to `out`, atomically.

    QEMU reads the symbol table of whatever it loads, at every start of a VM, for its own
    disassembler's sake (include/hw/elf_ops.h, load_symbols). Of Debian's 6.1 with debug
    information (633 MB) 65 MB are left, and QEMU 7.2 is ready in 0.12 instead of 0.15 s.
    """
    size = loaded_size(vmlinux)
    with entry.new_file(out) as temporary, open_file(vmlinux, LARGEST) as source:
        head = bytearray(source.read(64))
        struct.pack_into("<Q", head, 0x28, 0)  # e_shoff
        struct.pack_into("<HH", head, 0x3C, 0, 0)  # e_shnum, e_shstrndx
        with open(temporary, "wb") as target:
            target.write(head)
            while (left := size - target.tell()) > 0:
                piece = source.read(min(left, 1 << 20))
                if not piece:
                    raise KernelError(f"`{vmlinux}` is truncated")
                target.write(piece)


def has_debug_info(vmlinux: Path) -> bool:
    """Say whether the file is an ELF with DWARF debug information."""
    with open_file(vmlinux, LARGEST) as file:
        head = file.read(64)
        if len(head) < 64 or not is_elf(head):
            return False
        start = struct.unpack_from("<Q", head, 0x28)[0]
        size, count, names = struct.unpack_from("<HHH", head, 0x3A)
        table = _read_at(file, start, size * count)
        if size < 64 or len(table) < size * (names + 1):
            return False
        offset, length = struct.unpack_from("<QQ", table, names * size + 0x18)
        return b".debug_info\0" in _read_at(file, offset, length)


def _segments(file: BinaryIO) -> Iterator[Segment]:
    file.seek(0)
    head = file.read(64)
    if len(head) < 64 or not is_elf(head):
        return
    start = struct.unpack_from("<Q", head, 0x20)[0]
    size, count = struct.unpack_from("<HH", head, 0x36)
    table = _read_at(file, start, size * count)
    for at in range(0, len(table) - 55, max(size, 56)):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", table, at)
        if kind in (_PT_LOAD, _PT_NOTE):
            yield Segment(kind, offset, length)


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    # A damaged header may point anywhere: what is not there is empty.
    end = file.seek(0, 2)
    if offset > end or not offset:
        return b""
    file.seek(offset)
    return file.read(min(size, end - offset))


def _notes(data: bytes) -> Iterator[tuple[bytes, int]]:
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        yield data[at + 12 : at + 12 + name_size], kind
        at += 12 + (name_size + 3) // 4 * 4 + (size + 3) // 4 * 4


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    with open_file(path, LARGEST) as file:
        if file.seek(0, 2) == 0:  # mmap(2) refuses an empty file
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
