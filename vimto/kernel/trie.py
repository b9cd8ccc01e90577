"""The `modules.*.bin` files of depmod(8), which libkmod looks modules up in.

All numbers are big-endian (kmod: libkmod/libkmod-index.h). A file is magic, version and the offset
of the root; a node is its prefix and a NUL, its first and last child's letter and an offset for
each letter between, and its values: a count, then each one's priority, text and a NUL. What a
node has not is left out, which the upper bits of its offset say.
"""

import os
import struct
from collections.abc import Mapping, Sequence

_MAGIC = 0xB007F457
_VERSION = 0x00020001
_PREFIX, _VALUES, _CHILDREN = 0x80000000, 0x40000000, 0x20000000

_U32 = struct.Struct(">I")

# The texts of a key, and how much sooner each counts: the lowest first.
Values = Sequence[tuple[int, str]]


def write_trie(entries: Mapping[str, Values]) -> bytes:
    """Return the file that maps each key of `entries` to its values.

    Keys that are not ASCII are left out, for the format cannot hold them.
    """
    keys = sorted(key for key in entries if key.isascii())
    out = bytearray(_U32.pack(_MAGIC) + _U32.pack(_VERSION) + bytes(4))

    def write_node(first: int, last: int, start: int) -> int:
        """Write what `keys[first:last]` have from letter `start` on; return the node's offset."""
        shared = _common_start(keys[first], keys[last - 1])
        at = len(shared)
        values = sorted(entries[shared]) if keys[first] == shared else []
        children: dict[int, int] = {}
        index = first + bool(values)
        while index < last:
            letter = keys[index][at]
            end = index
            while end < last and keys[end][at] == letter:
                end += 1
            children[ord(letter)] = write_node(index, end, at + 1)
            index = end
        offset = len(out)
        if prefix := shared[start:]:
            out.extend(prefix.encode() + b"\0")
            offset |= _PREFIX
        if children:
            low, high = min(children), max(children)
            out.extend((low, high))
            for code in range(low, high + 1):
                out.extend(_U32.pack(children.get(code, 0)))
            offset |= _CHILDREN
        if values:
            out.extend(_U32.pack(len(values)))
            for priority, text in values:
                out.extend(_U32.pack(priority) + os.fsencode(text) + b"\0")
            offset |= _VALUES
        return offset

    root = write_node(0, len(keys), 0) if keys else _empty_root(out)
    _U32.pack_into(out, 8, root)
    return bytes(out)


def _common_start(one: str, other: str) -> str:
    for at, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return one[:at]
    return min(one, other, key=len)


def _empty_root(out: bytearray) -> int:
    # A root without anything has no place of its own; libkmod takes it for one that ends here.
    return len(out)
