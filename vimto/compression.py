"""The compressions that kernels, modules, packages and layers come in.

The one place that knows which library undoes which: `unpack` takes a whole file's data, `reader`
and `writer` give file objects. Damage is a `ValueError` from all of them: those of the libraries
have eight names, and `reader`'s callers see them where they read, within `damage_told`.
"""

import bz2
import enum
import functools
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

# A kernel with all drivers and the sanitizers, stripped, has a few hundred MB.
LARGEST = 2 << 30
_BUFFER = 256 << 10


class Format(enum.Enum):
    """A compressed file's format; the value is the suffix of its name."""

    GZIP = ".gz"
    XZ = ".xz"
    LZMA = ".lzma"
    ZSTD = ".zst"
    BZIP2 = ".bz2"
    LZ4 = ".lz4"


BY_SUFFIX = {form.value: form for form in Format}
_MAGIC = (
    (b"\x1f\x8b", Format.GZIP),
    (b"\xfd7zXZ\x00", Format.XZ),
    (b"\x28\xb5\x2f\xfd", Format.ZSTD),
    (b"\x02\x21\x4c\x18", Format.LZ4),
    (b"BZh", Format.BZIP2),
    (b"\x5d\x00\x00", Format.LZMA),
)
# RFC 8878, 3.1.2: a file may begin with a frame to be skipped, as zstd:chunked layers do.
_SKIPPABLE = 0x184D2A50


def find_format(head: bytes) -> Format | None:
    """Return the format of what begins with `head`, at least 6 bytes; None for no known one."""
    if int.from_bytes(head[:4], "little") & ~0xF == _SKIPPABLE:
        return Format.ZSTD
    return next((form for magic, form in _MAGIC if head.startswith(magic)), None)


@functools.cache  # Python looks through all of its path for a module that is not there
def zstd() -> Any:
    """Return the module of zstd, which Python has from 3.14 on."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from backports import zstd
    return zstd


@functools.cache
def damage() -> tuple[type[Exception], ...]:
    """Return what the libraries raise where compressed data is damaged."""
    return (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zstd().ZstdError)


def reason(exc: Exception) -> str:
    """Return what is wrong with the data, of one of `damage()`."""
    return "it is cut off" if isinstance(exc, EOFError) else str(exc)


@contextmanager
def damage_told() -> Iterator[None]:
    """Raise `ValueError` for all that `damage` has."""
    try:
        yield
    except damage() as exc:
        raise ValueError(reason(exc)) from exc


def unpack(data: bytes, form: Format) -> bytes:
    """Return what a whole file's `data` unpacks to; what follows its end is ignored.

    Raises `ValueError` for data that is damaged, cut off, or more than `LARGEST` unpacked: a few
    kB may claim to be terabytes.
    """
    if form is Format.LZ4:
        return _unpack_lz4(data)
    decompressor: Any
    if form is Format.GZIP:
        decompressor = zlib.decompressobj(wbits=31)
    elif form is Format.ZSTD:
        decompressor = zstd().ZstdDecompressor()
    elif form is Format.BZIP2:
        decompressor = bz2.BZ2Decompressor()
    else:
        decompressor = lzma.LZMADecompressor()
    try:
        with damage_told():
            out: bytes = decompressor.decompress(data, LARGEST)
    except OSError as exc:  # bz2's
        raise ValueError(str(exc)) from exc
    if decompressor.eof:
        return out
    raise _too_large() if len(out) >= LARGEST else ValueError("it is cut off")


def reader(file: BinaryIO, form: Format) -> BinaryIO:
    """Return a file object that decompresses `file`; closing it leaves `file` open."""
    if form is Format.GZIP:  # which serves each small read in Python
        return cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=file), _BUFFER))
    if form is Format.ZSTD:
        return cast(BinaryIO, zstd().ZstdFile(file))
    if form in (Format.XZ, Format.LZMA):
        return cast(BinaryIO, lzma.LZMAFile(file))
    if form is Format.BZIP2:
        return cast(BinaryIO, bz2.BZ2File(file))
    raise ValueError(f"`{form.value}` cannot be read piece by piece")


def writer(file: BinaryIO, form: Format, level: int) -> BinaryIO:
    """Return a file object that compresses into `file`, the same bytes at every time."""
    if form is Format.GZIP:
        return cast(
            BinaryIO,
            gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=file, mtime=0),
        )
    if form is Format.ZSTD:
        return cast(BinaryIO, zstd().ZstdFile(file, "wb", level=level))
    raise ValueError(f"nothing here writes `{form.value}`")


def _too_large() -> ValueError:
    return ValueError(f"it unpacks to more than {LARGEST >> 20} MiB")


def _unpack_lz4(data: bytes) -> bytes:
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
        if len(out) > LARGEST:
            raise _too_large()
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
