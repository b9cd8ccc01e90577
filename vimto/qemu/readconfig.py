"""QEMU's command line as a file for its `-readconfig`, which may be a pipe.

A QEMU so started loads, links itself and then waits for what it is to be. The format
(util/qemu-config.c) has sections for most options, and neither escapes nor long lines.
"""

import os

TYPE_CHECKING = False  # `typing` takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Sequence

# What there is no section for. It is the same for every machine that is restored.
EARLY = (
    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
    *("-cpu", "max", "-serial", "chardev:console", "-qmp", "chardev:monitor", "-incoming", "defer"),
)
_ALONE = ("-nodefaults", "-no-user-config", "-no-reboot")

# Each option's section, and the name of the value that stands first and without one.
_SECTIONS = {
    "-accel": ("accel", "accel"),
    "-chardev": ("chardev", "backend"),
    "-device": ("device", "driver"),
    "-fsdev": ("fsdev", "fsdriver"),
    "-m": ("memory", "size"),
    "-machine": ("machine", "type"),
    "-netdev": ("netdev", "type"),
    "-object": ("object", "qom-type"),
    "-smp": ("smp-opts", "cpus"),
}
_LONGEST_ID = 63
_LONGEST_LINE = 1000


def config_text(words: "Sequence[str]") -> bytes:
    """Return the file that makes a QEMU with the words `EARLY` one with all of `words`.

    `words` are without QEMU's own path. Raises `ValueError` for what the file cannot hold, and
    where the words without a section are not those of `EARLY`.
    """
    early: list[str] = []
    lines: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _ALONE:
            early.append(word)
        elif word in _SECTIONS:
            lines += _section(*_SECTIONS[word], next(rest))
        else:
            early += [word, next(rest, "")]
    if early != [*EARLY]:
        raise ValueError(f"not in every machine's command line: {early}")
    if any(len(os.fsencode(line)) > _LONGEST_LINE or "\n" in line for line in lines):
        raise ValueError("a line is too long")
    return os.fsencode("\n".join(lines) + "\n")


def _section(section: str, first: str, value: str) -> list[str]:
    """Return the lines of one option: `driver,key=value` in which a comma is doubled."""
    parts = value.replace(",,", "\0").split(",")
    pairs = [part.replace("\0", ",").partition("=") for part in parts]
    values = {key: text for key, equals, text in pairs if equals}
    if not pairs[0][1]:
        values = {first: pairs[0][0], **values}
    name = values.pop("id", "")
    if any('"' in text for text in (name, *values.values())) or len(name) > _LONGEST_ID:
        raise ValueError(f"`{value}` cannot be quoted")
    head = f'[{section} "{name}"]' if name else f"[{section}]"
    return [head, *(f'  {key} = "{text}"' for key, text in values.items())]
