"""The kinds of values that settings have: text or TOML to Python, and back to TOML.

A parser takes what any source has: text from a flag or a variable, or the value that a TOML file
holds. It raises `ValueError` with the rest of a sentence that begins with the value.
"""

import enum
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": GIB << 10}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

# The least memory in which a Debian kernel and the agent come up, and a tmpfs has room. A bit
# less is taken for it; a lot less is a slip, such as `1` for `1G`.
_LEAST_MEMORY = 128
_LEAST_ACCEPTED = 64
# Beyond, nothing that counts bytes in 64 bits, or seconds in a float, is exact.
_MOST_BYTES = (1 << 63) - 1
_MOST_SECONDS = 1e9
# Of QEMU's `-m` and `-smp`; the first are about memory plugged in later.
_OTHER_MEMORY = frozenset(("slots", "maxmem"))
_TOPOLOGY = frozenset(
    ("drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads")
)


def whole_number(text: str) -> int | None:
    """Return the number that up to 18 ASCII digits write, `None` for any other text.

    `str.isdecimal` takes the digits of every script, `str.isdigit` even `²`, which `int` refuses,
    as it does thousands of digits.
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def parse_user(value: object) -> str:
    """Take the name of a user, or a number, which a file may write without quotes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return parse_text(value)


def parse_text(value: object) -> str:
    """Take a string without NUL bytes."""
    if not isinstance(value, str):
        raise ValueError("is not a string")
    if "\0" in value:
        raise ValueError("contains a NUL byte")
    return value


def parse_bool(value: object) -> bool:
    """Take a truth value as TOML or Go's flag package writes it."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value.lower() in ("1", "t", "true", "yes", "on"):
            return True
        if value.lower() in ("0", "f", "false", "no", "off"):
            return False
    raise ValueError("is neither `true` nor `false`")


def parse_bytes(value: object) -> int:
    """Take a number of bytes: `4G`, `512M`, `100k`, or a bare number."""
    size: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    if isinstance(value, str):
        text = value.strip().upper().removesuffix("IB").removesuffix("B")
        digits = text.rstrip("KMGT")
        number = whole_number(digits)
        if number is not None and text.removeprefix(digits) in _UNITS:
            size = number * _UNITS[text.removeprefix(digits)]
    if size is None or not 0 <= size <= _MOST_BYTES:
        raise ValueError("is not a size such as `512M` or `4G`")
    return size


def parse_memory(value: object) -> int:
    """Take the guest's memory and return it in MiB: `1G`, `1024M`, `size=1G`, or MiB.

    What else QEMU's `-m` takes is about memory that is plugged in later, which we have none of.
    """
    text = value
    if isinstance(value, str):
        options = _parse_options(value, "size", _OTHER_MEMORY)
        number = whole_number(options["size"])
        text = options["size"] if number is None else number
    mib = text if isinstance(text, int) and not isinstance(text, bool) else _to_mib(text)
    if mib < _LEAST_ACCEPTED:
        raise ValueError(f"is too little; {_LEAST_MEMORY}M is the least")
    if mib > _MOST_BYTES // MIB:
        raise ValueError("is more than any machine has")
    return max(mib, _LEAST_MEMORY)


def _parse_options(text: str, first: str, others: frozenset[str]) -> dict[str, str]:
    """Take `[FIRST=]VALUE,NAME=VALUE,…` as QEMU does; FIRST is "" where it is not given."""
    options = {first: ""}
    for index, part in enumerate(text.strip().split(",")):
        name, equals, value = part.partition("=")
        if not equals and index == 0:
            name, value = first, part
        if name != first and name not in others:
            raise ValueError(f"holds `{part}`; `{first}=` counts, and {_listed(others)} may stand")
        options[name] = value
    return options


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}=`" for name in sorted(names))


def _to_mib(text: object) -> int:
    size = parse_bytes(text)
    if size % MIB:
        raise ValueError("is not a whole number of MiB")
    return size // MIB


def parse_smp(value: object) -> int:
    """Take the number of CPUs: `2`, `cpus=2`, or with QEMU's topology `cpus=2,cores=2`.

    Without `cpus` it is the topology's product, or `maxcpus`, as in QEMU.
    """
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str):
        counts = {
            name: whole_number(text)
            for name, text in _parse_options(value, "cpus", _TOPOLOGY | {"maxcpus"}).items()
            if text or name != "cpus"
        }
        product, most = 1, counts.pop("maxcpus", None)
        for name, count in counts.items():
            product *= (count or 0) if name != "cpus" else 1
        found = counts.get("cpus", product if counts else most)
        number = found if product else None
    if number is None or not 1 <= number <= 255:
        raise ValueError("is not a number of CPUs from 1 to 255, as in `2` or `cpus=2`")
    return number


def parse_duration(value: object) -> float:
    """Take a length of time and return seconds: `30s`, `2m`, `1h30m`, or a number of seconds."""
    seconds: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str):
        text = value.strip()
        seconds = float(text) if _is_number(text) else _parse_units(text)
    if seconds is None or not 0 <= seconds <= _MOST_SECONDS:
        raise ValueError("is not a duration such as `30s`, `2m` or `1h30m`")
    return float(seconds)


def _is_number(text: str) -> bool:
    whole, _, fraction = text.partition(".")
    return text.isascii() and whole.isdecimal() and (fraction or "0").isdecimal()


def _parse_units(text: str) -> float | None:
    """Return the seconds in `1h30m`, `None` for anything else."""
    total: float | None = None
    while text:
        number = text[: len(text) - len(text.lstrip("0123456789."))]
        text = text[len(number) :]
        unit = "ms" if text.startswith("ms") else text[:1]
        if unit not in _SECONDS or not _is_number(number):
            return None
        total = (total or 0.0) + float(number) * _SECONDS[unit]
        text = text[len(unit) :]
    return total


def parse_count(value: object) -> int:
    """Take a number of times, or a truth value: Go's `-v` is both."""
    if isinstance(value, str) and (number := whole_number(value)) is not None:
        return number
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    try:
        return int(parse_bool(value))
    except ValueError:
        raise ValueError("is not a number") from None


def parse_list(value: object) -> tuple[str, ...]:
    """Take one string, or a list of strings."""
    return tuple(parse_text(item) for item in (value if isinstance(value, list) else [value]))


def parse_shares(value: object) -> tuple[str, ...]:
    """Take one directory, or a list of them, each with `:ro` or without."""
    shares = parse_list(value)
    if ":ro" in shares:
        raise ValueError("names no directory before `:ro`")
    return shares


def parse_commands(value: object) -> tuple[tuple[str, ...], ...]:
    """Take commands: one string, or a list of strings and of lists of arguments.

    A string is split into arguments as a shell does, but nothing in it is expanded. An empty
    one stands for itself, `()`.
    """
    return tuple(map(_parse_command, value if isinstance(value, list) else [value]))


def _parse_command(value: object) -> tuple[str, ...]:
    if isinstance(value, list):
        words = tuple(parse_text(word) for word in value)
        if not words:
            raise ValueError("holds an empty command")
        return words
    text = parse_text(value)
    import shlex  # 5 ms, and few have such a setting

    try:
        return tuple(shlex.split(text))
    except ValueError as exc:
        raise ValueError(f"cannot be split into arguments: {str(exc).lower()}") from None


def place_path(text: str, directory: str) -> str:
    """Return a path that was written in `directory`, absolute; an empty one stays empty."""
    return os.path.normpath(os.path.join(directory, os.path.expanduser(text))) if text else ""


def place_program(text: str, directory: str) -> str:
    """Return what names a program: a path as `place_path` does; a name on PATH stays as it is."""
    return place_path(text, directory) if os.sep in text else text


def place_share(text: str, directory: str) -> str:
    """Return a directory with `:ro` or without, as `place_path` does."""
    path = text.removesuffix(":ro")
    return place_path(path, directory) + text[len(path) :]


def _show_memory(mebibytes: int) -> str:
    return f'"{mebibytes // 1024}G"' if mebibytes % 1024 == 0 else f'"{mebibytes}M"'


def _show_size(value: int) -> str:
    for unit in "TGMK":
        if value and value % _UNITS[unit] == 0:
            return f'"{value // _UNITS[unit]}{unit}"'
    return f'"{value}"'


def _show_duration(seconds: float) -> str:
    if not seconds:
        return "0"
    for unit in "hm":
        if seconds % _SECONDS[unit] == 0:
            return f'"{seconds / _SECONDS[unit]:.0f}{unit}"'
    return f'"{seconds:g}s"'


def show_toml(value: Any) -> str:
    """Return a string, a number, a truth value or a list of such as TOML writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(show_toml, value))}]"
    if isinstance(value, (bool, int)):
        return str(value).lower()
    # A TOML basic string has JSON's escapes, but for lone surrogates, which neither can carry.
    text = json.dumps(str(value), ensure_ascii=False)
    return "".join(char if char.isprintable() else _unicode_escape(char) for char in text)


def _unicode_escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"


class Flag(enum.Enum):
    """What a flag does where no `=` follows its name."""

    TAKES_VALUE = "the next argument is its value"
    SWITCHES = "it is on; `-no-` before its name, and it is off"
    COUNTS = "once more"


class Kind(NamedTuple):
    """A type of settings: how its values are written, and how several of them make one.

    `parse` takes what a source has, `show` returns a value as TOML. Values of a kind that is `many`
    are tuples and add up over the sources, weakest first, an empty item drops those before it;
    `example` is an item in TOML. `place` takes a value (one item, of many) and the directory that
    it was written in, and returns it for use in any other; it raises `ValueError` where there is no
    such.
    """

    parse: Callable[[object], Any]
    show: Callable[[Any], str] = show_toml
    place: Callable[[Any, str], Any] = lambda value, _directory: value
    many: bool = False
    example: str = '"…"'
    flag: Flag = Flag.TAKES_VALUE

    def items(self, value: Any) -> tuple[Any, ...]:
        """Return the items of a value, itself where there is but one."""
        return value if self.many else (value,)

    def placed(self, value: Any, directory: str) -> Any:
        """Return a value with all its items in place, as `place` does with one."""
        if self.many:
            return tuple(self.place(item, directory) for item in value)
        return self.place(value, directory)


TEXT = Kind(parse_text)
USER = Kind(parse_user)
PATH = Kind(parse_text, place=place_path)
PROGRAM = Kind(parse_text, place=place_program)
SWITCH = Kind(parse_bool, flag=Flag.SWITCHES)
COUNT = Kind(parse_count, flag=Flag.COUNTS)
BYTES = Kind(parse_bytes, show=_show_size)
MEMORY = Kind(parse_memory, show=_show_memory)
PROCESSORS = Kind(parse_smp)
DURATION = Kind(parse_duration, show=_show_duration)
TEXTS = Kind(parse_list, many=True)
SHARES = Kind(parse_shares, place=place_share, many=True)
COMMANDS = Kind(parse_commands, many=True, example='"mount -t tmpfs none /mnt"')


def choice(*choices: str) -> Kind:
    """Return the kind whose values are one of `choices`."""

    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"is not one of {', '.join(f'`{choice}`' for choice in choices)}")
        return str(value)

    return Kind(parse)
