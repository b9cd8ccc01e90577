"""Disks of a machine, as they are asked for: `SIZE`, or `FILE`, `FILE:ro`, `FILE:rw`.

SIZE       an empty disk, sparse, each machine's own, and gone with it
FILE       what the image holds; what is written goes with the machine
FILE:ro    what the image holds; nothing is written
FILE:rw    the image itself; one machine at a time
"""

from typing import NamedTuple

from vimto.diskimage import READ_ONLY, SCRATCH, WRITTEN
from vimto.values import Kind, parse_bytes, parse_list, place_path, whole_number

_SECTOR = 512


class Disk(NamedTuple):
    """One disk: of `size` bytes and empty, or what the image at `path` holds."""

    size: int = 0
    path: str = ""
    mode: str = SCRATCH


def parse_disk(text: str) -> Disk:
    """Take what the setting `disk` may hold; raises `ValueError` for what is neither."""
    head, colon, mode = text.rpartition(":")
    if not colon or mode not in (READ_ONLY, WRITTEN):
        head, mode = text, ""
    if whole_number(head) is not None:
        raise ValueError(f"has no unit; write `{head}M` or `{head}G`, or `./{head}` for a file")
    size = _parse_size(head)
    if size is None:
        if not head:
            raise ValueError("names neither a size nor a file")
        return Disk(path=head, mode=mode or SCRATCH)
    if mode:
        raise ValueError(f"is an empty disk, which goes with its machine: without `:{mode}`")
    if not size or size % _SECTOR:
        raise ValueError("is not the size of a disk, such as `64M` or `1G`")
    return Disk(size=size)


def _parse_size(text: str) -> int | None:
    """Return the bytes that `text` stands for; None for the name of a file."""
    try:
        return parse_bytes(text) if text[:1].isdecimal() else None
    except ValueError:
        return None


def parse_disks(value: object) -> tuple[str, ...]:
    """Take one text for `parse_disk`, or a list of them; an empty one stands for itself."""
    texts = parse_list(value)
    for text in filter(None, texts):
        parse_disk(text)
    return texts


def place_disk(text: str, directory: str) -> str:
    """Return `text` with a relative path made absolute, from `directory`."""
    path = parse_disk(text).path if text else ""
    return place_path(path, directory) + text[len(path) :] if path else text


DISKS = Kind(parse_disks, place=place_disk, many=True, example='"1G"')
