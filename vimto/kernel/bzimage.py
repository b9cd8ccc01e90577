"""Kernel images: the compressed bzImage, the ELF `vmlinux` inside it, and what each says of itself.

The layout of a bzImage is Documentation/arch/x86/boot.rst of the kernel; the offsets below are
its "setup header". Entering the extracted ELF through its PVH note halves the boot time under
emulation: no BIOS, no decompression by emulated code (8.4 against 4.3 s for Debian's 6.1).
"""

import contextlib
import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vimto import compression, elf
from vimto.cache import entry
from vimto.compression import Format
from vimto.errors import KernelError
from vimto.files import open_file, read_file

# A `vmlinux` with debug information for everything, and the sanitizers, has 2 GB.
LARGEST = 8 << 30
_LARGEST_BZIMAGE = 1 << 30

_SETUP_SECTORS = 0x1F1
_BOOT_FLAG = 0x1FE
_MAGIC = 0x202
_KERNEL_VERSION = 0x20E
_PAYLOAD = 0x248
_HEADER_SIZE = 0x250

_PVH_NOTE = (b"Xen\0", 18)  # XEN_ELFNOTE_PHYS32_ENTRY, include/xen/interface/elfnote.h


class UnknownCompressionError(KernelError):
    """The kernel can be booted, but only its own code can unpack it (LZO)."""


def is_bzimage(head: bytes) -> bool:
    """Say whether a file that begins with `head` (at least 0x206 bytes) is an x86 bzImage."""
    return head[_BOOT_FLAG:0x200] == b"\x55\xaa" and head[_MAGIC : _MAGIC + 4] == b"HdrS"


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
    if not elf.is_elf(head):
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
        return compression.unpack(packed, Format.GZIP).decode("utf-8", "replace")
    except ValueError:
        return ""


def extract_vmlinux(bzimage: Path, out: Path) -> None:
    """Write the ELF inside `bzimage` to `out`, which appears whole or not at all.

    Nothing is stripped; what the kernel's build put in is a stripped ELF. Raises `KernelError`
    for a file that is not a bzImage or is damaged, `UnknownCompressionError` where we cannot
    unpack.
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
    if not elf.is_elf(vmlinux):
        raise KernelError(f"`{bzimage}` does not contain a 64-bit ELF kernel")
    with entry.new_file(out) as temporary:
        temporary.write_bytes(vmlinux)


def _decompress(payload: bytes, name: Path) -> bytes:
    form = compression.find_format(payload[:8])
    if form is None:
        raise UnknownCompressionError(
            f"`{name}` is compressed in an unknown way (it begins with {payload[:4].hex(' ')})"
        )
    # The kernel's build appends the size to every format but gzip, which has it by itself
    # (scripts/Makefile.lib, size_append).
    size = struct.unpack_from("<I", payload, len(payload) - 4)[0]
    try:
        data = compression.unpack(payload if form is Format.GZIP else payload[:-4], form)
    except ValueError as exc:
        raise KernelError(f"`{name}` is damaged: {exc}") from exc
    if len(data) != size:
        raise KernelError(f"`{name}` is damaged: it unpacks to {len(data)} bytes, not {size}")
    return data


def has_pvh_note(vmlinux: Path) -> bool:
    """Say whether QEMU can enter the ELF `vmlinux` directly (CONFIG_PVH)."""
    with open_file(vmlinux, LARGEST) as file, contextlib.suppress(ValueError):
        found = elf.Elf(file)
        notes = found.notes(found.segments())
        return any((note.owner, note.kind) == _PVH_NOTE for note in notes)
    return False


def loaded_size(vmlinux: Path) -> int:
    """Return where in the ELF `vmlinux` the bytes end that a loader needs, 0 in any other file."""
    with open_file(vmlinux, LARGEST) as file, contextlib.suppress(ValueError):
        return elf.Elf(file).loaded_size()
    return 0


def strip_vmlinux(vmlinux: Path, out: Path) -> None:
    """Write the part of the ELF `vmlinux` that a loader needs to `out`, atomically.

    QEMU reads the symbol table of whatever it loads, at every start of a machine, for its own
    disassembler's sake (include/hw/elf_ops.h, load_symbols). Of Debian's 6.1 with debug
    information (633 MB) 65 MB are left, and QEMU 7.2 is ready in 0.12 instead of 0.15 s.
    """
    with entry.new_file(out) as temporary, open_file(vmlinux, LARGEST) as source:
        try:
            found = elf.Elf(source)
            head, size = found.header_without_sections(), found.loaded_size()
        except ValueError as exc:
            raise KernelError(f"`{vmlinux}` is damaged: {exc}") from exc
        source.seek(len(head))
        with open(temporary, "wb") as target:
            target.write(head)
            while (left := size - target.tell()) > 0:
                piece = source.read(min(left, 1 << 20))
                if not piece:
                    raise KernelError(f"`{vmlinux}` is truncated")
                target.write(piece)


def has_debug_info(vmlinux: Path) -> bool:
    """Say whether the file is an ELF with DWARF debug information."""
    with open_file(vmlinux, LARGEST) as file, contextlib.suppress(ValueError):
        return any(section.name == ".debug_info" for section in elf.Elf(file).sections())
    return False


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    with open_file(path, LARGEST) as file:
        if file.seek(0, 2) == 0:  # mmap(2) refuses an empty file
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
