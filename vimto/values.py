"""How the values of settings are written: text or TOML to Python, and back to TOML.

A parser takes what any source has: text from a flag or a variable, or the value that a TOML file
holds. It raises `ValueError` with the rest of a sentence that begins with the value.
"""

import json
from collections.abc import Callable
from typing import Any

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
    """Take commands: one string, or a list of strings and of lists of words.

    A string is split into words as a shell does, but nothing in it is expanded. An empty one
    stands for itself, `()`.
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
        raise ValueError(f"cannot be split into words: {str(exc).lower()}") from None


def parse_choice(*choices: str) -> Callable[[object], str]:
    """Return a parser that takes one of `choices`."""

    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"is none of {', '.join(f'`{choice}`' for choice in choices)}")
        return str(value)

    return parse


def show_value(parse: Callable[[object], Any], value: Any) -> str:
    """Return `value`, which `parse` made, as it would be written in `.vimto.toml`."""
    if parse is parse_memory:
        return f'"{value // 1024}G"' if value % 1024 == 0 else f'"{value}M"'
    if parse is parse_bytes:
        return f'"{_show_bytes(value)}"'
    if parse is parse_duration:
        return f'"{_show_seconds(value)}"' if value else "0"
    return _toml(value)


def _show_bytes(value: int) -> str:
    for unit in "TGMK":
        if value and value % _UNITS[unit] == 0:
            return f"{value // _UNITS[unit]}{unit}"
    return str(value)


def _show_seconds(value: float) -> str:
    for unit in "hm":
        if value % _SECONDS[unit] == 0:
            return f"{value / _SECONDS[unit]:.0f}{unit}"
    return f"{value:g}s"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (bool, int)):
        return str(value).lower()
    # A TOML basic string has JSON's escapes, but for lone surrogates, which neither can carry.
    text = json.dumps(str(value), ensure_ascii=False)
    return "".join(char if char.isprintable() else _unicode_escape(char) for char in text)


def _unicode_escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"
