"""What is QEMU's to understand: processors, devices, network cards, and arguments of any kind.

It is checked for what QEMU would answer in another way than by an error, or what would take from
vimto what it needs of each machine. All else QEMU refuses itself, in its own words.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from vimto.values import Kind, parse_commands, parse_list, parse_text

# A comma that is doubled is part of a value.
_PART = re.compile("(?:[^,]|,,)+")
_HELP = ("help", "?")
# Of a card's options those that are the device's; all others are those of what is behind it.
_OF_THE_DEVICE = ("mac", "macaddr", "addr", "vectors")
_CARD = "virtio-net-pci"
# What vimto has settings for, and what it tells each QEMU itself, or must not.
_SETTINGS = {
    "m": "-memory",
    "smp": "-smp",
    "cpu": "-cpu",
    "accel": "-accel",
    "enable-kvm": "-accel kvm",
    "kernel": "-kernel",
    "append": "-kernel-args",
    "snapshot": "-disk",
}
_OURS = frozenset(
    ("S", "incoming", "daemonize", "preconfig", "loadvm", "no-shutdown", "initrd", "machine", "M")
)
# Those whose value is, or leads to, a file that the guest sees: a disk, a ROM, a table.
_FILES = frozenset(
    [
        "drive",
        "blockdev",
        "cdrom",
        "hda",
        "hdb",
        "hdc",
        "hdd",
        "sd",
        "pflash",
        "mtdblock",
        "fda",
        "fdb",
        "bios",
        "dtb",
        "option-rom",
        "L",
        "readconfig",
    ]
)
# And the properties by which any other option names one, in either of QEMU's notations.
_NAMES_A_FILE = re.compile(r'(?:^|[,{"])(?:file|filename|mem-path|data|romfile)(?:=|"\s*:)')
_QUESTIONS = frozenset(("h", "help", "version"))


class Card(NamedTuple):
    """A network card: its device (`model`, with the options `values`), and what is behind it.

    `backend` is what QEMU's `-netdev` takes, without an identifier.
    """

    model: str
    values: dict[str, str]
    backend: str


def parse_card(text: str) -> Card:
    """Take what QEMU's `-nic` takes; raises `ValueError` where that is not a card."""
    kind, *parts = _PART.findall(text) or [""]
    if not kind or "=" in kind or text.startswith(","):
        raise ValueError("does not begin with what is behind the card, as `user` or `tap`")
    if kind == "none":
        raise ValueError("is no card, and there is none without `-nic`")
    _refuse_questions([kind, *parts], "-nic")
    values: dict[str, str] = {}
    model, behind = _CARD, [kind]
    for part in parts:
        name, equals, value = part.partition("=")
        if name == "id":
            raise ValueError("holds `id=`: vimto names its cards itself")
        if name == "model":
            model = _CARD if value == "virtio" else value
        elif equals and name in _OF_THE_DEVICE:
            values["mac" if name == "macaddr" else name] = value.replace(",,", ",")
        else:
            behind.append(part)
    return Card(model, values, ",".join(behind))


def _refuse_questions(parts: Sequence[str], option: str) -> None:
    for part in parts:
        if part in _HELP or part.removeprefix("model=") in _HELP:
            raise ValueError(f"asks for help; `qemu-system-x86_64 {option} help` answers")


def parse_cards(value: object) -> tuple[str, ...]:
    """Take one text for `parse_card`, or a list of them; an empty one stands for itself."""
    texts = parse_list(value)
    for text in filter(None, texts):
        parse_card(text)
    return texts


def parse_devices(value: object) -> tuple[str, ...]:
    """Take one text for QEMU's `-device`, or a list of them; an empty one stands for itself."""
    texts = parse_list(value)
    for text in filter(None, texts):
        if not (text[0].isalnum() or text[0] == "{"):
            raise ValueError("does not begin with the name of a device")
        if text[0] != "{":
            _refuse_questions(_PART.findall(text), "-device")
    return texts


def parse_cpu(value: object) -> str:
    """Take what QEMU's `-cpu` takes."""
    text = parse_text(value)
    if not text.strip() or text[0] in "-,":
        raise ValueError("is not the model of a processor, as in `max` or `qemu64,+avx2`")
    _refuse_questions(_PART.findall(text), "-cpu")
    return text


def parse_qemu_args(value: object) -> tuple[tuple[str, ...], ...]:
    """Take arguments of QEMU: one text, split as a shell does, or a list of such.

    Each option of QEMU has one value, or none.
    """
    found = parse_commands(value)
    for words in filter(None, found):
        before = ""
        for word in words:
            if not (word.startswith("-") or before.startswith("-")):
                raise ValueError(f"holds `{word}`, which follows none of QEMU's options")
            _check_option(word)
            before = word
    return found


def _check_option(word: str) -> None:
    name = word.removeprefix("-").removeprefix("-") if word.startswith("-") else ""
    if name in _SETTINGS:
        raise ValueError(f"holds `{word}`, for which vimto has `{_SETTINGS[name]}`")
    if name in _OURS:
        raise ValueError(f"holds `{word}`, which is for vimto to say")
    if name in _QUESTIONS:
        raise ValueError(f"holds `{word}`, after which there is no machine")


def find_file(arguments: Sequence[Sequence[str]], devices: Sequence[str]) -> str:
    """Return the first of QEMU's options that names a file whose contents the guest sees, or ""."""
    for words in arguments:
        for word, before in zip(words, ("", *words), strict=False):
            if word.startswith("-") and word.lstrip("-") in _FILES:
                return word
            if before.startswith("-") and _NAMES_A_FILE.search(word):
                return before
    return "-device" if any(map(_NAMES_A_FILE.search, devices)) else ""


CPU = Kind(parse_cpu)
DEVICES = Kind(parse_devices, many=True, example='"virtio-balloon-pci"')
CARDS = Kind(parse_cards, many=True, example='"user,hostfwd=tcp::8080-:80"')
QEMU_ARGS = Kind(parse_qemu_args, many=True, example='"-object iothread,id=io"')
