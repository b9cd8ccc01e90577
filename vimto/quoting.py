"""Quoting: for Go's `-exec` and `GOFLAGS`, for QEMU's options, for terminals, and for people."""

from collections.abc import Sequence


def split_go(text: str) -> list[str]:
    """Split `text` into words as the go command splits `-exec`, `-toolexec` and the like.

    Quotes count only at the start of a word and there are no escapes
    (cmd/internal/quoted.Split). Raises `ValueError` for an unterminated quote.
    """
    words = []
    rest = text.lstrip(" \t\n\r")
    while rest:
        if rest[0] in "'\"":
            end = rest.find(rest[0], 1)
            if end < 0:
                raise ValueError(f"unterminated {rest[0]} string")
            words.append(rest[1:end])
            rest = rest[end + 1 :]
        else:
            end = next((i for i, c in enumerate(rest) if c in " \t\n\r"), len(rest))
            words.append(rest[:end])
            rest = rest[end:]
        rest = rest.lstrip(" \t\n\r")
    return words


def quote_go(words: Sequence[str]) -> str:
    """Join `words` so that `split_go`, and so the go command, gives them back.

    Raises `ValueError` for a word that holds a blank or starts with a quote and holds both kinds
    of quotes: Go has no way to write it.
    """
    return " ".join(_quote_go_word(word) for word in words)


def _quote_go_word(word: str) -> str:
    if word and word[0] not in "'\"" and not any(c in word for c in " \t\n\r"):
        return word
    for quote in "'\"":
        if quote not in word:
            return f"{quote}{word}{quote}"
    raise ValueError(f"cannot be quoted for the go command: {word!r}")


def show(argv: Sequence[str]) -> str:
    """Return `argv` as one line that a POSIX shell reads back as the same arguments.

    What a terminal would act on is written as `$'\\033'` (POSIX.1-2024; bash, zsh and ksh).
    """
    import shlex

    return " ".join(shlex.quote(word) if word.isprintable() else _dollar(word) for word in argv)


def _dollar(word: str) -> str:
    pieces = []
    for char in word:
        if char in "'\\":
            pieces.append("\\" + char)
        elif char.isprintable():
            pieces.append(char)
        else:
            pieces += [f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape")]
    return f"$'{''.join(pieces)}'"


def visible(text: str, keep: str = "\n\t") -> str:
    """Return `text` as it may be shown on a terminal, whoever wrote it.

    Every character that is not printable is written as an escape, but those in `keep`: control
    characters (C0, DEL, C1), those that turn the direction of writing or have no width, other
    separators than the blank, and bytes that are not UTF-8. A console's log, an image's name or an
    answer of the network could otherwise clear the screen, forge a message, or type for the user.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is not UTF-8 (PEP 383)
        code -= 0xDC00
    if code <= 0xFF:
        return {"\r": "\\r", "\n": "\\n", "\t": "\\t"}.get(char, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def escape(value: str) -> str:
    """Return `value` as the value of a QEMU option: a comma would end it."""
    return value.replace(",", ",,")
