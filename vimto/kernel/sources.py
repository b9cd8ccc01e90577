"""Where apt gets packages from, as this machine is set up, and how to reach another suite.

sources.list(5) describes both formats. An entry is its deb822 fields, keys in lower case; values
keep their continuation lines, since `Signed-By` may hold a whole key.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from vimto.errors import KernelError
from vimto.files import read_file

Source = Mapping[str, str]


def read_sources(files: Iterable[Path]) -> list[Source]:
    """Return the enabled entries for binary packages in `files` (`*.list` and `*.sources`).

    Files that cannot be read are left out, as apt itself does for an unprivileged user.
    """
    found: list[Source] = []
    for path in files:
        try:
            text = read_file(path, 1 << 20).decode("utf-8", "replace")
        except OSError:
            continue
        found += parse_sources(text) if path.suffix == ".sources" else parse_list(text)
    return found


def parse_sources(text: str) -> list[Source]:
    """Return the enabled `deb` entries of a deb822 file."""
    found: list[Source] = []
    for stanza in re.split(r"\n[ \t]*\n", re.sub(r"(?m)^#.*\n?", "", text + "\n")):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                if key:
                    fields[key] += "\n" + line
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "off", "0")
        if enabled and "deb" in fields.get("types", "").split() and "uris" in fields:
            found.append({**fields, "types": "deb"})
    return found


_OPTIONS = {"arch": "architectures", "lang": "languages", "target": "targets"}


def parse_list(text: str) -> list[Source]:
    """Return the `deb` entries of a one-line-style file."""
    found: list[Source] = []
    for line in text.splitlines():
        match = re.fullmatch(
            r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*?)\s*(#.*)?", line
        )
        if not match:
            continue
        fields = {"types": "deb", "uris": match[2], "suites": match[3], "components": match[4]}
        for option in (match[1] or "").split():
            key, equals, value = option.partition("=")
            if equals:
                fields[_OPTIONS.get(key, key)] = value.replace(",", " ")
        found.append(fields)
    return found


def choose_sources(sources: list[Source], suite: str, *, codename: str) -> list[Source]:
    """Return the entries to use for `suite`: the machine's own, else one made from them.

    A distribution has the same mirror and key for all its suites but the `-security` ones, which
    have theirs. `codename` is this machine's release (`VERSION_CODENAME` in os-release(5)).
    Raises `KernelError` where there is nothing to start from.
    """
    own = [source for source in sources if suite in source.get("suites", "").split()]
    if own:
        return [{**source, "suites": suite} for source in own]
    security = suite.endswith("-security")
    alike = [
        source
        for source in sources
        if any(name.endswith("-security") == security for name in _suites(source))
        and "main" in source.get("components", "").split()
    ]
    # Other vendors' repositories say "main" too; the machine's own release is the best sign.
    wanted = f"{codename}-security" if security else codename
    alike.sort(key=lambda source: wanted not in _suites(source))
    if not alike:
        kind = "security archive" if security else "archive"
        raise KernelError(
            f"apt's sources name no {kind} that could have the suite `{suite}`",
            hint=f"add an entry for `{suite}` to /etc/apt/sources.list.d",
        )
    return [{**alike[0], "suites": suite}]


def _suites(source: Source) -> list[str]:
    return source.get("suites", "").split()


def render_sources(sources: Iterable[Source]) -> str:
    """Return the text of a deb822 file with these entries."""
    stanzas = (
        "".join(f"{key.title()}: {value}\n" for key, value in source.items() if value)
        for source in sources
    )
    return "\n".join(stanzas)
