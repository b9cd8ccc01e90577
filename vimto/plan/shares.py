"""Which of the host's directories a machine can write to, at the same path, and nothing else."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from vimto import beneath
from vimto.errors import ConfigError
from vimto.places import SYSTEM, follow, is_below, is_communal, is_in

# The guest has its own; a share there would hide it.
_PRIVATE = ("/proc", "/sys", "/dev")

# What a test binary's flags name (testing.init, cmd/go/internal/test). Files are written next to
# nothing: their directory is what must be shared.
_DIRECTORY_FLAGS = frozenset(("outputdir", "gocoverdir", "fuzzcachedir"))
# Relative to -test.outputdir (testing.toOutputDir).
_PROFILE_FLAGS = frozenset(("cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace"))
_FILE_FLAGS = _PROFILE_FLAGS | {"coverprofile", "testlogfile"}

# Where the environment tells a Go program to write by itself: counters of one that was built with
# -cover, and reports of the sanitizers that -race, -asan and -msan link in. (GOCACHE, GOMODCACHE
# and GOTMPDIR are for go itself: a test that runs go finds the host's caches, and fills its own.)
_OUTPUT_VARIABLE = "GOCOVERDIR"
_REPORT_VARIABLES = ("GORACE", "ASAN_OPTIONS", "LSAN_OPTIONS", "MSAN_OPTIONS", "UBSAN_OPTIONS")
# As compiler-rt's flag parser splits it (sanitizer_flag_parser.cpp).
_LOG_PATH = re.compile(r"""(?:^|[ ,:\n\t\r])log_path=(?:"([^"]*)"|'([^']*)'|([^ ,:\n\t\r]*))""")


_UNMAPPED = (
    "a container without root on its host has few users: /etc/subuid gives it more, and"
    " `-user root` works everywhere"
)
# Directories that go (os.MkdirTemp) and we (Python's mkdtemp) make for one run.
_SCRATCH = re.compile(r"go-build\d+|vimto-(?:dlv|gdb)-\w+", re.ASCII)


class Share(NamedTuple):
    """One directory of the host at the same absolute path in the guest."""

    path: str
    readonly: bool = False


class Command(NamedTuple):
    """A command on this host: its arguments, directory and environment, and whose machine it is.

    `temporary` is where go puts its work directories, `homes` are the real paths of home
    directories.
    """

    argv: Sequence[str]
    cwd: str
    environment: Mapping[str, str] = {}
    temporary: str = "/tmp"
    homes: Sequence[str] = ()


def collapse(shares: Iterable[Share]) -> list[Share]:
    """Return the shares without repetitions and without what another one covers, parents first.

    Of two shares of one path the first counts. A writable share covers all below it but what is
    asked for read-only; a read-only one covers only what is read-only too. The root directory
    is never shared: the guest has it already, read-only. Raises `ConfigError` for a directory
    that would hide the guest's own /proc, /sys or /dev.
    """
    first: dict[str, Share] = {}
    for share in shares:
        path = follow(share.path)[0]
        if path != "/" and path not in first:
            _refuse_private(path)
            first[path] = Share(path, share.readonly)
    kept: list[Share] = []
    for share in sorted(first.values()):
        above = [other for other in kept if is_below(share.path, other.path)]
        if not above or above[-1].readonly != share.readonly:
            kept.append(share)
    return kept


def refuse_cache(shares: Iterable[Share], cache: str) -> None:
    """Raise `ConfigError` if the directory `cache` lies in one of the writable shares.

    A guest could alter the kernels, guest programs and machines that later runs start from.
    """
    real = os.path.realpath(cache)
    for share in shares:
        if not share.readonly and is_below(real, os.path.realpath(share.path)):
            raise ConfigError(
                f"the cache `{cache}` lies in `{share.path}`, where the machine may write",
                hint="a guest could alter what later runs trust: `VIMTO_CACHE_DIR` names a place "
                "outside; a CI that keeps only what is below the project moves it there and back",
            )


def _refuse_private(path: str) -> None:
    for private in _PRIVATE:
        if is_below(path, private) and not is_below(path, "/dev/shm"):
            raise ConfigError(
                f"`{path}` cannot be shared: the guest has its own {private}",
                hint="take another directory: to run from, for `-share`, or as GOTMPDIR",
            )


def find_shares(command: Command) -> list[Share]:
    """Return the directories that a command writes to, not collapsed.

    Of a binary in one of go's work directories its package's part is shared (`$WORK/b001`), so that
    what the test leaves there survives with `-work`: beside it lie the binaries of other packages,
    which run in other machines. For the sake of being in it, or of a binary in it, no communal
    directory is shared, only for that of a flag or variable that names it.
    """
    cwd = command.cwd
    found = [cwd]
    if os.sep in command.argv[0]:
        binary = os.path.join(cwd, command.argv[0])
        work = _work_directory(binary, command.temporary)
        if work or not is_in(binary, SYSTEM):
            found.append(work or os.path.dirname(binary))
    found = [path for path in found if not is_communal(follow(path)[0], command.homes)]
    found += _flagged(command.argv[1:], cwd)
    found += _told(command.environment, cwd)
    return [Share(os.path.normpath(path)) for path in found]


def _flagged(words: Sequence[str], cwd: str) -> list[str]:
    """Return the directories that the flags of a test binary name."""
    flags = _test_flags(words)
    output = next((value for flag, value in reversed(flags) if flag == "outputdir"), "")
    found = []
    for flag, value in flags:
        base = os.path.join(cwd, output) if flag in _PROFILE_FLAGS else cwd
        path = os.path.normpath(os.path.join(base, value))
        if flag in _FILE_FLAGS:
            path = os.path.dirname(path)
        elif flag == "fuzzcachedir":
            _make_directory(path)  # the test would, in a directory that is not shared
        if os.path.isdir(path):
            found.append(path)
    return found


def _told(environment: Mapping[str, str], cwd: str) -> list[str]:
    """Return the directories that the environment tells Go programs to write to."""
    named = [environment.get(_OUTPUT_VARIABLE, "")]
    for variable in _REPORT_VARIABLES:
        paths = [
            "".join(match.groups("")) for match in _LOG_PATH.finditer(environment.get(variable, ""))
        ]
        if paths and paths[-1] not in ("", "stdout", "stderr"):
            named.append(os.path.dirname(os.path.join(cwd, paths[-1])))
    paths = [os.path.join(cwd, path) for path in named if path]
    return [path for path in paths if os.path.isdir(path)]


def admit(shares: Iterable[Share], command: Command, uid: int, gid: int) -> None:
    """Give private scratch directories among `shares` to the user of `command`, if we are root.

    go and we make them for their owner alone, and the guest's kernel goes by that: the command
    could not even execute its own binary. The same for those in them that its flags name, where a
    test leaves its coverage for go. Nobody else is let in, and root goes on using them. Raises
    `ConfigError` where a directory cannot be given away.
    """
    if os.geteuid() != 0 or uid == 0:
        return
    for share in shares:
        scratch = _scratch(share.path)
        if scratch:
            told = [follow(path)[0] for path in _flagged(command.argv[1:], command.cwd)]
            inside = [path for path in (share.path, *told) if path != scratch]
            try:
                _give(scratch, [path for path in inside if is_below(path, scratch)], uid, gid)
            except OSError as exc:
                raise ConfigError(
                    f"`{scratch}` cannot be given to the user {uid}: {exc.strerror}",
                    hint=_UNMAPPED if exc.errno == errno.EINVAL else "",
                ) from exc


def _scratch(path: str) -> str:
    """Return the scratch directory that `path` is, or is a package's part of; else nothing."""
    for directory in (path, os.path.dirname(path)):
        if _SCRATCH.fullmatch(os.path.basename(directory)):
            return directory
    return ""


def _give(scratch: str, inside: Iterable[str], uid: int, gid: int) -> None:
    """Give away a private directory, and those `inside` of it."""
    status = os.lstat(scratch)
    ours = status.st_uid in (0, uid)  # another test of the same run may have been here
    if not (ours and stat.S_ISDIR(status.st_mode)) or status.st_mode & 0o077:
        return
    directory = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(directory, uid, gid)
        for path in inside:
            beneath.give(directory, os.path.relpath(path, scratch), uid, gid)
    finally:
        os.close(directory)


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError:
        pass  # the test reports it, as it would on the host


def _work_directory(binary: str, temporary: str) -> str:
    """Return the package's part of go's work directory that `binary` lies in, or nothing."""
    if not is_below(binary, temporary):
        return ""
    work, *parts = binary[len(temporary.rstrip("/")) + 1 :].split("/")
    if not work.startswith("go-build") or len(parts) < 2:  # that of `go run` is b001/exe/NAME
        return ""
    return os.path.join(temporary, work, parts[0])


def _test_flags(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the path-valued `-test.*` flags among `words` as (name, value)."""
    found = []
    for index, word in enumerate(words):
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or not name.startswith("test."):
            continue
        name = name.removeprefix("test.")
        if name in _DIRECTORY_FLAGS or name in _FILE_FLAGS:
            if not equals:
                value = words[index + 1] if index + 1 < len(words) else ""
            if value:
                found.append((name, value))
    return found
