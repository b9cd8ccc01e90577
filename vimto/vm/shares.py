"""Which of the host's directories a machine sees writable, at the same path, and nothing else."""

import os
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vimto.errors import ConfigError

# The guest has its own; a share there would hide it.
_PRIVATE = ("/proc", "/sys", "/dev")

# Programs of the host: nothing that one of them writes belongs beside it.
_SYSTEM = ("/bin", "/sbin", "/lib", "/usr", "/opt", "/nix")

# What a test binary's flags name (testing.init, cmd/go/internal/test). Files are written next to
# nothing: their directory is what must be shared.
_DIRECTORY_FLAGS = frozenset(("outputdir", "gocoverdir", "fuzzcachedir"))
# Relative to -test.outputdir (testing.toOutputDir).
_PROFILE_FLAGS = frozenset(("cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace"))
_FILE_FLAGS = _PROFILE_FLAGS | {"coverprofile", "testlogfile"}


# Directories that go and we make with mkdtemp(3), for one run.
_SCRATCH = ("go-build", "vimto-dlv-", "vimto-gdb-")


class Share(NamedTuple):
    """One directory of the host at the same absolute path in the guest."""

    path: str
    readonly: bool = False


def is_below(path: str, parent: str) -> bool:
    """Say whether `path` is `parent` or lies in it; both absolute and normalised."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def collapse(shares: Iterable[Share]) -> list[Share]:
    """Return the shares without repetitions and without what another one covers, parents first.

    Of two shares of one path the first counts. A writable share covers all below it but what is
    asked for read-only; a read-only one covers only what is read-only too. The root directory
    is never shared: the guest has it already, read-only. Raises `ConfigError` for a directory
    that would hide the guest's own /proc, /sys or /dev.
    """
    first: dict[str, Share] = {}
    for share in shares:
        path = os.path.normpath(share.path)
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
                hint="run from another directory, or set GOTMPDIR to one outside it",
            )


def find_shares(argv: Sequence[str], cwd: str, temporary: str) -> list[Share]:
    """Return the directories that the command `argv` in `cwd` writes to, not collapsed.

    `temporary` is where go puts its work directories: of a binary in one of them the whole work
    directory is shared, so that what the test leaves there survives with `-work`.
    """
    shares = [Share(cwd)]
    binary = os.path.join(cwd, argv[0])
    if os.sep in argv[0]:
        work = _work_directory(binary, temporary)
        if work or not any(is_below(binary, system) for system in _SYSTEM):
            shares.append(Share(work or os.path.dirname(binary)))
    flags = _test_flags(argv[1:])
    output = next((value for flag, value in reversed(flags) if flag == "outputdir"), "")
    for flag, value in flags:
        base = os.path.join(cwd, output) if flag in _PROFILE_FLAGS else cwd
        path = os.path.normpath(os.path.join(base, value))
        if flag in _FILE_FLAGS:
            path = os.path.dirname(path)
        elif flag == "fuzzcachedir":
            _make_directory(path)  # the test would, in a directory that is not shared
        if os.path.isdir(path):
            shares.append(Share(path))
    return shares


def admit(shares: Iterable[Share], uid: int, gid: int) -> None:
    """Give private scratch directories among `shares` to the user of the command, if we are root.

    go and we make them for their owner alone, and the guest's kernel goes by that: the command
    could not even execute its own binary. Nobody else is let in, and root goes on using them.
    """
    if os.geteuid() != 0 or uid == 0:
        return
    for share in shares:
        if os.path.basename(share.path).startswith(_SCRATCH):
            status = os.lstat(share.path)
            if stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o077:
                os.chown(share.path, uid, gid, follow_symlinks=False)


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError:
        pass  # the test reports it, as it would on the host


def _work_directory(binary: str, temporary: str) -> str:
    if not is_below(binary, temporary) or binary == temporary:
        return ""
    head = binary[len(temporary.rstrip("/")) + 1 :].split("/", 1)[0]
    return os.path.join(temporary, head) if head.startswith("go-build") else ""


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
