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

# The least memory in which a Debian kernel and the agent come up, and a tmpfs has room.
_LEAST_MEMORY = 128


def parse_text(value: object) -> str:
    """Take a string without NUL bytes."""
    if not isinstance(value, str):
        raise ValueError("is no string")
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
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        text = value.strip().upper().removesuffix("IB").removesuffix("B")
        digits = text.rstrip("KMGT")
        if digits.isdecimal() and text.removeprefix(digits) in _UNITS:
            return int(digits) * _UNITS[text.removeprefix(digits)]
    raise ValueError("is no size such as `512M` or `4G`")


def parse_memory(value: object) -> int:
    """Take the guest's memory and return it in MiB: `1G`, `1024M`, `size=1G`, or MiB."""
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str):
        text = text.removeprefix("size=")
        if "=" in text or "," in text:
            raise ValueError("holds more than a size; only `size=` is understood")
        text = int(text) if text.isdecimal() else text
    mib = text if isinstance(text, int) and not isinstance(text, bool) else _to_mib(text)
    if mib < _LEAST_MEMORY:
        raise ValueError(f"is too little; {_LEAST_MEMORY}M is the least")
    return mib


def _to_mib(text: object) -> int:
    size = parse_bytes(text)
    if size % MIB:
        raise ValueError("is no whole number of MiB")
    return size // MIB


def parse_smp(value: object) -> int:
    """Take the number of CPUs: `2` or `cpus=2`."""
    text = value.strip().removeprefix("cpus=") if isinstance(value, str) else value
    if isinstance(text, str) and text.isdecimal():
        text = int(text)
    if isinstance(text, int) and not isinstance(text, bool) and 1 <= text <= 255:
        return text
    raise ValueError("is no number of CPUs from 1 to 255, as in `2` or `cpus=2`")


def parse_duration(value: object) -> float:
    """Take a length of time and return seconds: `30s`, `2m`, `1h30m`, or a number of seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 <= value < float("inf"):
            return float(value)
    elif isinstance(value, str):
        text = value.strip()
        if _is_number(text):
            return float(text)
        seconds = _parse_units(text)
        if seconds is not None:
            return seconds
    raise ValueError("is no duration such as `30s`, `2m` or `1h30m`")


def _is_number(text: str) -> bool:
    whole, _, fraction = text.partition(".")
    return text.isascii() and whole.isdecimal() and (fraction or "0").isdecimal()


def _parse_units(text: str) -> float | None:
    """Return the seconds in `1h30m`, `None` for anything else."""
    total = 0.0
    while text:
        number = text[: len(text) - len(text.lstrip("0123456789."))]
        text = text[len(number) :]
        unit = "ms" if text.startswith("ms") else text[:1]
        if unit not in _SECONDS or not _is_number(number):
            return None
        total += float(number) * _SECONDS[unit]
        text = text[len(unit) :]
    return total or None


def parse_count(value: object) -> int:
    """Take a number of times, or a truth value: Go's `-v` is both."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    try:
        return int(parse_bool(value))
    except ValueError:
        raise ValueError("is no number") from None


def parse_list(value: object) -> tuple[str, ...]:
    """Take one string, or a list of strings."""
    return tuple(parse_text(item) for item in (value if isinstance(value, list) else [value]))


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
