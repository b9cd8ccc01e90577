"""The arguments of `vimto gdb-kernel`: its own flags first, then go's, then gdb's behind `--`."""

from collections.abc import Sequence
from dataclasses import dataclass

from vimto.addresses import Address, parse_address
from vimto.errors import UsageError

_SWITCHES = ("from-boot", "fetch-debug", "go-symbols")
_VALUES = ("break", "batch", "listen", "vmlinux")
# gdb's own ways to say that nobody sits in front of it.
_GDB_BATCH = ("-batch", "--batch", "-batch-silent", "--batch-silent")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for; `words` are go's (or `exec` and a command), `gdb_words` gdb's."""

    breaks: tuple[str, ...]
    batch: str
    listen: Address | None
    vmlinux: str
    from_boot: bool
    fetch_debug: bool
    go_symbols: bool
    words: tuple[str, ...]
    gdb_words: tuple[str, ...]

    @property
    def is_batch(self) -> bool:
        """Whether gdb ends by itself with its script."""
        return bool(self.batch) or any(word in _GDB_BATCH for word in self.gdb_words)


def parse_options(argv: Sequence[str]) -> Options:
    """Parse the arguments after `gdb-kernel`; raises `UsageError`.

    Flags are written as vimto's other ones. After `exec` all arguments up to the last `--` are the
    command's; go's end at the first `--`.
    """
    words = list(argv)
    values: dict[str, list[str]] = {}
    while words:
        dashed = words[0][1:] if words[0].startswith("--") else words[0]
        name, equals, value = dashed[1:].partition("=")
        if not dashed.startswith("-") or name not in (*_SWITCHES, *_VALUES):
            break
        word = words.pop(0)
        if name in _VALUES and not equals:
            if not words:
                raise UsageError(f"the flag `{word}` needs a value")
            value = words.pop(0)
        values.setdefault(name, []).append(value)
    if empty := next((name for name in values if name in _VALUES and "" in values[name]), ""):
        raise UsageError(f"the flag `-{empty}` needs a value")
    words, gdb_words = _split(words)
    if words and words[0] == "exec" and words[1:] in ([], ["--"]):
        raise UsageError("`vimto gdb-kernel exec` needs a command")
    if values.get("listen") and (values.get("batch") or values.get("break") or gdb_words):
        raise UsageError(
            "with `-listen` vimto starts no gdb",
            hint="give gdb's arguments to the gdb that you connect",
        )
    return Options(
        breaks=tuple(values.get("break", ())),
        batch=_last(values, "batch"),
        listen=_parse_listen(_last(values, "listen")),
        vmlinux=_last(values, "vmlinux"),
        from_boot="from-boot" in values,
        fetch_debug="fetch-debug" in values,
        go_symbols="go-symbols" in values,
        words=tuple(words),
        gdb_words=tuple(gdb_words),
    )


def _parse_listen(text: str) -> Address | None:
    try:
        return parse_address(text) if text else None
    except ValueError as exc:
        raise UsageError(f"`-listen {text}`: `{text}` {exc}") from None


def _last(values: dict[str, list[str]], name: str) -> str:
    return values.get(name, [""])[-1]


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    separators = [index for index, word in enumerate(words) if word == "--"]
    if words[:2] == ["exec", "--"]:
        separators = separators[1:]
    if not separators:
        return words, []
    at = separators[-1] if words[0] == "exec" else separators[0]
    return words[:at], words[at + 1 :]
