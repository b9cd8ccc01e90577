"""Durations as Go's package time reads and writes them; here they are whole nanoseconds."""

import re

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, micro sign
    "μs": 1_000,  # U+03BC, Greek letter mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
SECOND, MINUTE = _NANOSECONDS["s"], _NANOSECONDS["m"]
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> int:
    """Return the nanoseconds in `1h2m3.5s`, as Go's time.ParseDuration; raises `ValueError`."""
    sign, rest = 1, text
    if rest[:1] in ("-", "+"):
        sign, rest = (-1 if rest[0] == "-" else 1), rest[1:]
    if rest == "0":
        return 0
    total, place = 0, 0
    while place < len(rest):
        part = _PART.match(rest, place)
        if part is None or not (part[1] or part[2]):
            break
        unit, fraction = _NANOSECONDS[part[3]], part[2] or ""
        total += int(part[1] or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        place = part.end()
    if not rest or place < len(rest) or total >= 1 << 63:
        raise ValueError(f"`{text}` is not a duration")
    return sign * total


def format_duration(nanoseconds: int) -> str:
    """Return a positive duration as Go's time.Duration writes it: `1m30s`, `1.5s`, `250ms`."""
    if nanoseconds < SECOND:
        unit = next(name for name in ("ms", "µs", "ns") if nanoseconds >= _NANOSECONDS[name])
        return _decimal(nanoseconds, _NANOSECONDS[unit]) + unit
    minutes, rest = divmod(nanoseconds, MINUTE)
    seconds = f"{_decimal(rest, SECOND)}s"
    if not minutes:
        return seconds
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}"


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    fraction = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
