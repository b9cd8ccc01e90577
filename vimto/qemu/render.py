"""Options in QEMU's two ways of writing: a command line, and a file for its `-readconfig`.

The file's format (util/qemu-config.c) has a section for most options, and neither escapes nor long
lines.
"""

import os
from collections.abc import Iterable, Sequence

from vimto.qemu.options import Flag, Option
from vimto.quoting import escape

# Sections whose name is not the option's own.
_SECTIONS = {"m": "memory", "smp": "smp-opts"}
# The key of the value that stands first.
_KINDS = {
    "accel": "accel",
    "chardev": "backend",
    "device": "driver",
    "fsdev": "fsdriver",
    "m": "size",
    "machine": "type",
    "netdev": "type",
    "object": "qom-type",
    "smp": "cpus",
}
_LONGEST_ID = 63
_LONGEST_LINE = 1000


def arguments(options: Iterable[Option | Flag]) -> list[str]:
    """Return `options` as QEMU's arguments."""
    words = []
    for option in options:
        if isinstance(option, Flag):
            words += [f"-{option.name}", *([] if option.value is None else [option.value])]
        else:
            pairs = {"id": option.id, **option.values} if option.id else option.values
            values = [f"{key}={escape(text)}" for key, text in pairs.items()]
            words += [f"-{option.group}", ",".join(filter(None, [option.kind, *values]))]
    return words


def config_file(options: Sequence[Option]) -> bytes:
    """Return the file that says the same; raises `ValueError` for what it cannot hold."""
    lines = []
    for option in options:
        section = _SECTIONS.get(option.group, option.group)
        lines.append(f'[{section} "{option.id}"]' if option.id else f"[{section}]")
        first = {_KINDS[option.group]: option.kind} if option.kind else {}
        values = {**first, **option.values}
        if any('"' in text for text in (option.id, *values.values())):
            raise ValueError(f"`{option}` cannot be quoted")
        if len(option.id) > _LONGEST_ID:
            raise ValueError(f"`{option.id}` is too long for an identifier")
        lines += [f'  {key} = "{text}"' for key, text in values.items()]
    if any(len(os.fsencode(line)) > _LONGEST_LINE or "\n" in line for line in lines):
        raise ValueError("a line is too long")
    return os.fsencode("\n".join(lines) + "\n")
