"""The dlv command line: what the user asked of Delve, and what a machine needs of it.

The rules are pflag's. Source: cmd/dlv/cmds/commands.go and pkg/gobuild of Delve 1.27. Words that
are not understood here are dlv's own business and reach it as they are.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vimto.errors import UsageError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Flags with a value, which may be the next argument; all others have one after `=` only.
_VALUES = _words(
    "api-version backend build-flags init listen log-dest log-output redirect wd output tty "
    "client-addr exec stack follow-calls verbose pid waitfor waitfor-interval waitfor-duration "
    "onprocess tags"
)
_SHORT = {"l": "listen", "r": "redirect", "p": "pid", "e": "exec", "s": "stack", "t": "test"}
_SHORT_VERBOSE = {"v": "verbose"}  # `trace` alone: of `version` it is a switch
# Those that go with the build, which is made on the host.
_BUILD = _words("build-flags output tags race")


@dataclass(frozen=True, kw_only=True)
class DlvFlag:
    """A flag: its long `name`, its `value`, and the `words` that were typed."""

    name: str
    value: str
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DlvCommand:
    """A command line for dlv: `verb`, its flags in order, its `operands`, and the program's own."""

    verb: str
    flags: tuple[DlvFlag, ...]
    operands: tuple[str, ...]
    program: tuple[str, ...] | None

    def value(self, name: str, default: str = "") -> str:
        """Return the value of the flag `name`: the last one counts."""
        return next((flag.value for flag in reversed(self.flags) if flag.name == name), default)

    def values(self, name: str) -> list[str]:
        """Return the values of a flag that may be repeated."""
        return [flag.value for flag in self.flags if flag.name == name]

    def is_on(self, name: str) -> bool:
        """Say whether the switch `name` is on."""
        return self.value(name).lower() in ("1", "t", "true")

    @property
    def builds(self) -> str:
        """What has to be built: `test`, `program`, or nothing (empty)."""
        if self.verb == "trace":
            if self.value("exec") or self.value("pid"):
                return ""
            return "test" if self.is_on("test") else "program"
        return {"test": "test", "debug": "program"}.get(self.verb, "")

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages, or files, to build; of `trace` the last operand is a pattern."""
        return self.operands[:-1] if self.verb == "trace" else self.operands

    @property
    def serves(self) -> bool:
        """Whether clients connect to this dlv."""
        return self.verb == "dap" or (self.is_on("headless") and self.verb in _RUNNING)

    @property
    def build_flags(self) -> list[str]:
        """The arguments in `--build-flags`."""
        return split_build_flags(self.value("build-flags"))

    def build(self, go: str, output: str, more: Sequence[str] = ()) -> list[str]:
        """Return the go command that dlv would run to build `output`, with flags `more`."""
        words = self.build_flags
        leading: list[str] = []
        if words[:1] == ["-C"]:
            leading, words = words[:2], words[2:]
        elif words[:1] and words[0].startswith("-C="):
            leading, words = words[:1], words[1:]
        if self.value("tags"):
            words += ["-tags", self.value("tags")]
        if self.is_on("race"):
            words.append("-race")
        verb = ["test", *leading, "-c"] if self.builds == "test" else ["build", *leading]
        return [go, *verb, *more, "-o", output, "-gcflags", "all=-N -l", *words, *self.packages]

    def built(self, binary: str, directory: str) -> "DlvCommand":
        """Return the command that does the same with the finished `binary`.

        `directory` is where `dlv test` runs it, unless the user said otherwise; "" for here.
        """
        flags = [flag for flag in self.flags if flag.name not in _BUILD]
        if self.verb == "trace":
            flags = [flag for flag in flags if flag.name != "test"]
            pattern = self.operands[-1:]
            return self._with([*flags, _flag("exec", binary)], "trace", pattern)
        if directory and not self.value("wd"):
            flags.append(_flag("wd", directory))
        return self._with(flags, "exec", (binary,))

    def serving(self, address: str) -> "DlvCommand":
        """Return the command with the server at `address`, in the machine."""
        flags = [flag for flag in self.flags if flag.name not in ("listen", "client-addr")]
        return self._with([*flags, _flag("listen", address)], self.verb, self.operands)

    def logging(self, destination: str) -> "DlvCommand":
        """Return the command with another `--log-dest`."""
        flags = [flag for flag in self.flags if flag.name != "log-dest"]
        return self._with([*flags, _flag("log-dest", destination)], self.verb, self.operands)

    def _with(self, flags: Sequence[DlvFlag], verb: str, operands: Sequence[str]) -> "DlvCommand":
        return DlvCommand(
            verb=verb, flags=tuple(flags), operands=tuple(operands), program=self.program
        )

    def argv(self, dlv: str) -> list[str]:
        """Return the command line to run."""
        flags = [word for flag in self.flags for word in flag.words]
        program = [] if self.program is None else ["--", *self.program]
        return [dlv, self.verb, *flags, *self.operands, *program]

    def output_files(self) -> list[str]:
        """Return the files, as they were typed, that dlv or the program writes by these flags."""
        found = [value.split(":", 1)[-1] for value in self.values("redirect")]
        log = self.value("log-dest")
        return [path for path in (*found, log) if path and not path.isdecimal()]

    def input_files(self) -> list[str]:
        """Return the files, as they were typed, that dlv reads."""
        found = [self.value("init"), self.value("exec")]
        if self.verb in ("exec", "core"):
            found += self.operands
        return [path for path in found if path]


_RUNNING = ("test", "debug", "exec", "core")


def _flag(name: str, value: str) -> DlvFlag:
    return DlvFlag(name=name, value=value, words=(f"--{name}={value}",))


def parse_dlv(words: Sequence[str]) -> DlvCommand:
    """Parse the arguments after `dlv`; raises `UsageError` when there is no command in them."""
    rest = list(words)
    flags: list[DlvFlag] = []
    operands: list[str] = []
    program: tuple[str, ...] | None = None
    while rest:
        word = rest.pop(0)
        if word == "--":
            program, rest = tuple(rest), []
        elif word.startswith("-") and word != "-":
            flags.append(_parse_flag(word, rest, operands[:1] == ["trace"]))
        else:
            operands.append(word)
    if not operands:
        raise UsageError(
            "`vimto dlv` needs one of dlv's commands", hint="as in `vimto dlv test ./pkg`"
        )
    return DlvCommand(
        verb=operands[0], flags=tuple(flags), operands=tuple(operands[1:]), program=program
    )


def _parse_flag(word: str, rest: list[str], tracing: bool) -> DlvFlag:
    """Take the flag `word`, and of `rest` the value that belongs to it."""
    typed = [word]
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
    else:
        short = {**_SHORT, **(_SHORT_VERBOSE if tracing else {})}
        name = short.get(word[1], word[1])
        value = word[2:].removeprefix("=")
        equals = word[2:]
    if not equals:
        value = "true"
        if name in _VALUES and rest:
            value = rest.pop(0)
            typed.append(value)
    return DlvFlag(name=name, value=value, words=tuple(typed))


def split_build_flags(text: str) -> list[str]:
    """Split `--build-flags` as dlv does (config.SplitQuotedFields): `'` quotes, with `\\` in them.

    Unlike a shell's, a quote inside an argument joins it, and an empty pair of quotes is not one.
    """
    words: list[str] = []
    word, quoted, escaped = "", False, False
    for char in text:
        if escaped:
            word, escaped = word + char, False
        elif quoted and char == "\\":
            escaped = True
        elif char == "'":
            quoted = not quoted
        elif char.isspace() and not quoted:
            words, word = [*words, *([word] if word else [])], ""
        else:
            word += char
    return [*words, *([word] if word else [])]


def absolute(path: str, directory: str) -> str:
    """Return `path` as seen from `directory`."""
    return os.path.normpath(os.path.join(directory, path))


def parse_version(text: str) -> str:
    """Return the version in what `dlv version` prints, "" where there is none."""
    found = re.search(r"^Version: (\d+\.\d+\S*)", text, re.MULTILINE)
    return found[1] if found else ""


def is_too_old(delve: str, go: str) -> bool:
    """Say whether the Delve of version `delve` refuses what the Go of version `go` builds.

    Each has the number of the newest Go that it knows (MaxSupportedVersionOfGoMinor in its
    pkg/goversion/compat.go); 1.9 knew Go 1.19. What cannot be told is not too old.
    """
    versions = [re.match(r"(?:go)?(\d+)\.(\d+)", text) for text in (delve, go)]
    (major, minor), (go_major, go_minor) = (
        (int(found[1]), int(found[2])) if found else (0, 0) for found in versions
    )
    if major == 1 and minor < 10:
        minor += 10
    return bool(major and go_major) and (major, minor) < (go_major, go_minor)
