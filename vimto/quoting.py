"""Quoting: for Go's `-exec` and `GOFLAGS`, for QEMU's options, and for people."""

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
    """Return `argv` as one line that a POSIX shell reads back as the same words."""
    import shlex

    return shlex.join(argv)


def escape(value: str) -> str:
    """Return `value` as the value of a QEMU option: a comma would end it."""
    return value.replace(",", ",,")
