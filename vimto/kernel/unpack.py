"""Decompression that comes to an end: a few kB may claim to be terabytes.

Each function takes a whole file's data and returns what it unpacks to; they raise `ValueError`, or
what their library raises, for data that is damaged, truncated, or unpacks to more than `LARGEST`.
"""

import bz2
import lzma
import zlib
from typing import Any

# A kernel with all drivers and the sanitizers, stripped, has a few hundred MB.
LARGEST = 2 << 30


def gunzip(data: bytes) -> bytes:
    return _expand(zlib.decompressobj(wbits=31), data)


def unxz(data: bytes) -> bytes:
    """Decompress xz, and its predecessor lzma."""
    return _expand(lzma.LZMADecompressor(), data)


def bunzip2(data: bytes) -> bytes:
    return _expand(bz2.BZ2Decompressor(), data)


def unzstd(data: bytes) -> bytes:
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:  # Python < 3.14
        from backports import zstd
    try:
        return _expand(zstd.ZstdDecompressor(), data)
    except zstd.ZstdError as exc:
        raise ValueError(str(exc)) from exc


def _expand(decompressor: Any, data: bytes) -> bytes:
    out: bytes = decompressor.decompress(data, LARGEST)
    if decompressor.eof:
        return out
    raise too_large() if len(out) >= LARGEST else ValueError("it ends too early")


def too_large() -> ValueError:
    return ValueError(f"it unpacks to more than {LARGEST >> 20} MiB")
