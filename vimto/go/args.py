"""The go command line: what the user asked of go, by go's own rules, and where `-exec` goes in.

Source: cmd/go/internal/{test/testflag.go,run/run.go,work/build.go,cmdflag} of Go 1.26. Where go
refuses a line, so does go: this only has to agree about the lines that go accepts.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from vimto import quoting
from vimto.errors import UsageError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Flags of `go test` and `go run` that take no separate value, and those that do. All others are
# the test binary's own, and go cannot know whether those take one either.
_SWITCHES = _words("a asan buildvcs cover json linkshared modcacherw msan n race trimpath v work x")
_VALUES = _words(
    "C asmflags buildmode compiler covermode coverpkg debug-actiongraph debug-runtime-trace "
    "debug-trace exec gccgoflags gcflags installsuffix ldflags mod modfile overlay p pgo pkgdir "
    "tags toolexec"
)
_TEST_SWITCHES = _words("artifacts benchmem c failfast fullpath short")
_TEST_VALUES = _words(
    "bench benchtime blockprofile blockprofilerate count coverprofile cpu cpuprofile fuzz "
    "fuzzminimizetime fuzztime list memprofile memprofilerate mutexprofile mutexprofilefraction "
    "o outputdir parallel run shuffle skip timeout trace vet"
)
# go accepts these under their own name and as `-test.NAME`, and passes them on as the latter.
_PASSED = (_TEST_SWITCHES | _TEST_VALUES | {"v"}) - {"c", "o", "vet"}

# Files that the test binary writes relative to -outputdir (testing.toOutputDir).
_PROFILES = ("cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace")

_NO_TIMEOUT = "-timeout=0"

# The verbs that run what they build, and so take -exec.
_RUNNING = ("test", "run")


class GoFlag(NamedTuple):
    """A flag that go itself understands: `name` without dashes and `test.`; `value` as text."""

    name: str
    value: str


class GoCommand(NamedTuple):
    """A command line for go, understood; `words` is it verbatim.

    `flags` are go's, in order; `packages` (or files) what it builds; `rest` what goes to the
    program uninterpreted. `chdir` is `-C`, `exec_at` the place in `words` for our `-exec`;
    `timeouts_at` are the places of `-timeout`, with its value.
    """

    words: tuple[str, ...]
    verb: str
    flags: tuple[GoFlag, ...]
    packages: tuple[str, ...]
    rest: tuple[str, ...]
    chdir: str
    exec_at: int
    timeouts_at: tuple[slice, ...]

    @property
    def runs_programs(self) -> bool:
        """Whether this go command takes `-exec`; others need no machine and run as they are."""
        return self.verb in _RUNNING

    @property
    def compiles_only(self) -> bool:
        """Whether nothing will be run: `-c`, and `-n`, which only prints commands."""
        return self.is_on("c") or self.is_on("n")

    def value(self, name: str, default: str = "") -> str:
        """Return the value of go's flag `name`: the last one counts."""
        return next((flag.value for flag in reversed(self.flags) if flag.name == name), default)

    def is_on(self, name: str) -> bool:
        """Say whether go's switch `name` is on."""
        return is_switched_on(self.flags, name)

    @property
    def test_flags(self) -> tuple[GoFlag, ...]:
        """Those of go's flags that it passes on to the test binary, as `-test.NAME=VALUE`."""
        names = _PASSED if self.verb == "test" else ()
        return tuple(flag for flag in self.flags if flag.name in names)

    @property
    def build_flags(self) -> tuple[GoFlag, ...]:
        """Those of go's flags that shape the binary, and those for go alone."""
        passed = self.test_flags
        return tuple(flag for flag in self.flags if flag not in passed)

    def directory(self, cwd: str) -> str:
        """Return the directory that go works in, which `-C` changes; `cwd` is ours, absolute."""
        return os.path.normpath(os.path.join(cwd, self.chdir))

    def output_directories(self, cwd: str) -> list[str]:
        """Return the directories, absolute, that profile flags make test binaries write to.

        Binaries get `-test.outputdir` absolute and profiles relative to it; without -outputdir
        it is go's own directory. A coverage profile is written by go itself, on the host, from
        parts in its work directory.
        """
        base = self.directory(cwd)
        output = os.path.normpath(os.path.join(base, self.value("outputdir")))
        found = [output] if self.value("outputdir") or self.is_on("artifacts") else []
        for name in _PROFILES if self.verb == "test" else ():
            if self.value(name):
                path = os.path.join(output, self.value(name))
                found.append(os.path.dirname(os.path.normpath(path)))
        return list(dict.fromkeys(found))

    def with_exec(
        self, words: Sequence[str], *, timeless: bool = False, more: Sequence[str] = ()
    ) -> list[str]:
        """Return the command line with `-exec` set to the command `words`, and flags `more`.

        With `timeless` it has `-timeout=0`, in the place of each `-timeout` that is there: left
        out, what is an argument of the tests because a flag stands before it would be a package.
        Raises `UsageError` when one of them cannot be written by go's quoting rules.
        """
        try:
            value = quoting.quote_go(words)
        except ValueError as exc:
            raise UsageError(
                f"a path {exc}", hint="it holds both kinds of quotes, or one and a blank; move it"
            ) from exc
        line, ours = list(self.words), [f"-exec={value}", *more]
        if timeless:
            for place in reversed(self.timeouts_at):
                line[place] = [_NO_TIMEOUT]
            if not self.timeouts_at:  # the default, or GOFLAGS
                ours.append(_NO_TIMEOUT)
        return [*line[: self.exec_at], *ours, *line[self.exec_at :]]


def is_switched_on(flags: Sequence[GoFlag], name: str) -> bool:
    """Say whether go's switch `name` is on in `flags`: the last one counts."""
    values = [flag.value for flag in flags if flag.name == name]
    return bool(values) and values[-1].lower() in ("1", "t", "true")


def parse_build_flags(words: Sequence[str], *, goflags: str = "") -> tuple[GoFlag, ...]:
    """Return the flags of a build, and before them those in `goflags`, which is `go env GOFLAGS`.

    What is not understood is left to go.
    """
    line = _Line("run", words)
    line.parse()
    return (*_parse_goflags(goflags, "run"), *line.flags)


def is_go_word(word: str) -> bool:
    """Say whether `word` is a go command: `go`, `go1.26.1`, or a path to one of these."""
    name = os.path.basename(word)
    version = name.removeprefix("go1.")
    return name in ("go", "gotip") or (version != name and version[:1].isdecimal())


def parse_go(words: Sequence[str], *, goflags: str = "") -> GoCommand:
    """Understand `go VERB …`; `goflags` is `go env GOFLAGS`, whose flags count as if typed first.

    Raises `UsageError` for an `-exec` in either place, and for words in which go would not find a
    verb. Lines that go itself refuses are left to it.
    """
    chdir, verb_at = _parse_chdir(words, 1)
    if verb_at >= len(words):
        raise UsageError("`go` needs a command", hint="as in `vimto go test ./...`")
    verb = words[verb_at]
    late_chdir, start = _parse_chdir(words, verb_at + 1)
    line = _Line(verb, words[start:])
    inherited: list[GoFlag] = []
    if verb in _RUNNING:
        line.parse()
        inherited = _parse_goflags(goflags, verb)
        _refuse_exec(line.flags, "")
        _refuse_exec(inherited, " in GOFLAGS")
    return GoCommand(
        words=tuple(words),
        verb=verb,
        flags=(*inherited, *line.flags),
        packages=tuple(line.packages or ()),
        rest=tuple(line.rest),
        chdir=late_chdir or chdir,
        exec_at=start,
        timeouts_at=tuple(slice(start + first, start + end) for first, end in line.timeouts),
    )


def _refuse_exec(flags: Sequence[GoFlag], where: str) -> None:
    if any(flag.name == "exec" for flag in flags):
        raise UsageError(
            f"`-exec`{where} cannot be used here: vimto gives go one of its own, which runs each"
            " program in its machine",
            hint="`go test -exec 'vimto exec WRAPPER' …` wraps the test binary as well; without a"
            " machine, run go itself",
        )


def _parse_chdir(words: Sequence[str], at: int) -> tuple[str, int]:
    """Return the value of a `-C` at that place, which must be the first flag, and what follows."""
    if at < len(words):
        name, equals, value = words[at].partition("=")
        if name in ("-C", "--C"):
            if equals:
                return value, at + 1
            if at + 1 < len(words):
                return words[at + 1], at + 2
    return "", at


def _parse_goflags(goflags: str, verb: str) -> list[GoFlag]:
    try:
        words = quoting.split_go(goflags)
    except ValueError:
        return []  # go says it better
    flags = []
    for word in words:
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if _takes_value(verb, name) is not None:
            flags.append(GoFlag(name=_plain(name), value=value if equals else "true"))
    return flags


def _plain(name: str) -> str:
    return name.removeprefix("test.")


def _takes_value(verb: str, name: str) -> bool | None:
    """Say whether go's flag `name` takes a value; `None` if it is not one of go's."""
    if verb == "test" and name.startswith("test."):
        name = _plain(name)
        if name not in _PASSED:
            return None
    if name in _SWITCHES or (verb == "test" and name in _TEST_SWITCHES):
        return False
    if name in _VALUES or (verb == "test" and name in _TEST_VALUES):
        return True
    return None


class _Line:
    """The arguments after `go test` or `go run`, one after the other.

    `packages` is `None` until the list of packages has begun or cannot come any more.
    """

    def __init__(self, verb: str, words: Sequence[str]) -> None:
        self.verb = verb
        self.words = list(words)
        self.flags: list[GoFlag] = []
        self.packages: list[str] | None = None
        self.rest: list[str] = []
        self.timeouts: list[tuple[int, int]] = []
        self._length = len(self.words)

    def parse(self) -> None:
        if self.verb == "run":
            self._parse_run()
        else:
            self._parse_test()

    def _parse_run(self) -> None:
        # Package flag's rules: flags end at the first other word, or at `--`, which is dropped.
        while self.words and self.words[0] != "--" and _flag_name(self.words[0]):
            self._take_flag()
        if self.words[:1] == ["--"]:
            del self.words[0]
        files = 0
        while files < len(self.words) and self.words[files].endswith(".go"):
            files += 1
        self.packages = self.words[: files or 1]
        self.rest = self.words[files or 1 :]

    def _parse_test(self) -> None:
        in_packages = False
        after_own_flag = False  # whose value the next argument may be
        while self.words:
            word = self.words[0]
            if word == "--":
                self.rest += self.words  # with the `--`: the binary's flag package drops it
                return
            name = _flag_name(word)
            if not name:
                if in_packages or self.packages is None:
                    in_packages = True
                    self.packages = [*(self.packages or ()), self.words.pop(0)]
                elif after_own_flag:
                    after_own_flag = False
                    self.rest.append(self.words.pop(0))
                else:
                    self.rest += self.words
                    return
                continue
            in_packages = after_own_flag = False
            if _takes_value(self.verb, name) is not None:
                self._take_flag()
                continue
            if self.packages is None:
                self.packages = []
            if word in ("-args", "--args"):
                self.rest += self.words[1:]
                return
            self.rest.append(self.words.pop(0))
            after_own_flag = "=" not in word

    def _take_flag(self) -> None:
        first = self._length - len(self.words)
        word = self.words.pop(0)
        name = _flag_name(word)
        _, equals, value = word.partition("=")
        if not equals:
            value = "true"
            if _takes_value(self.verb, name):
                value = self.words.pop(0) if self.words else ""
        self.flags.append(GoFlag(name=_plain(name), value=value))
        if _plain(name) == "timeout":
            self.timeouts.append((first, self._length - len(self.words)))


def _flag_name(word: str) -> str:
    """Return the name in `-name`, `--name` or `-name=value`, "" if `word` is not a flag."""
    name = word.removeprefix("-")
    if name == word:
        return ""
    name = name.removeprefix("-")
    return "" if name.startswith(("-", "=")) else name.partition("=")[0]
