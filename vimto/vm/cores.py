"""Core dumps: where the guest writes them, and the program that belongs to one.

They lie in the command's working directory, which for a test is its package's. go removes the test
binary after its run, and a core dump without it is worth little: so the binary is kept beside it.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from vimto import beneath, console
from vimto.quoting import show

# core(5): the guest program gets the dump and writes it as core-%e-%t-%P: program, second, process,
# for in machines of one snapshot the processes of two runs have the same numbers. The limit is that
# of dumps at once; with one the kernel waits for each before it ends the process.
SYSCTLS = {
    "kernel.core_pattern": "|/proc/1/exe core %P %t %u %g %c %e",
    "kernel.core_pipe_limit": "16",
}
_PREFIX = "core-"
# The kernel's name of a program, %e, has at most so many bytes.
_COMM = 15
# Of programs in these directories below go's temporary one nothing is left after the run.
_TRANSIENT = ("go-build", "vimto-")


class Dump(NamedTuple):
    """One file, by its name, and what that says: the program's (cut) name and the second."""

    file: str
    program: str
    second: str


@contextlib.contextmanager
def watched(argv: list[str], cwd: str, temporary: str) -> Iterator[None]:
    """Tell of the core dumps that come into `cwd` while the context lasts, once it ends well.

    `argv` is the command that runs there, and `temporary` where go makes its work directories.
    """
    try:
        directory = beneath.open_directory(cwd)
    except OSError:  # it may be entered, but not read
        yield
        return
    try:
        before = find_dumps(directory)
        yield
        report(directory, before, argv, temporary)
    finally:
        os.close(directory)


def find_dumps(directory: int) -> set[str]:
    """Return the names of all core dumps in a directory."""
    return {name for name in os.listdir(directory) if name.startswith(_PREFIX)}


def report(directory: int, before: set[str], argv: list[str], temporary: str) -> None:
    """Tell the user of each core dump that is not one of those `before`.

    `argv` is the command that ran in `directory`, a descriptor, and `temporary` where go makes its
    work directories. The command's own program is kept if it would be gone.
    """
    path = os.readlink(f"/proc/self/fd/{directory}")
    for name in sorted(find_dumps(directory) - before):
        dump = _parse(name)
        place = os.path.join(path, name)
        if dump is None:
            continue
        if os.stat(name, dir_fd=directory, follow_symlinks=False).st_size == 0:
            console.warn(f"the core dump {show([place])} is empty: there was no room for it")
            continue
        if os.fsencode(os.path.basename(argv[0]))[:_COMM] != os.fsencode(dump.program):
            console.note(f"a process dumped core: {show([place])}")
            continue
        program = _keep(directory, dump, os.path.join(path, argv[0]), temporary)
        if program:
            console.note(f"core dumped: {show(['dlv', 'core', program, place])}")
        else:
            console.note(f"core dumped: {show([place])}")


def _parse(name: str) -> Dump | None:
    pieces = name.removeprefix(_PREFIX).rsplit("-", 2)
    if len(pieces) != 3 or not (pieces[1].isdecimal() and pieces[2].isdecimal()):
        return None
    return Dump(name, pieces[0], pieces[1])


def _keep(directory: int, dump: Dump, program: str, temporary: str) -> str:
    """Return where the program of `dump` can be found, after it was copied if need be; or ""."""
    inside = os.path.relpath(program, temporary)
    if not inside.startswith(_TRANSIENT):
        return program if os.path.exists(program) else ""
    base = os.path.basename(program)
    stem, extension = os.path.splitext(base)
    try:
        # The guest could write to where the program lies, and to where it goes.
        parent = beneath.open_directory(temporary)
        try:
            source = beneath.open_file(parent, inside)
        finally:
            os.close(parent)
        try:
            kept = _copy_new(source, directory, (base, f"{stem}-{dump.second}{extension}"))
        finally:
            os.close(source)
    except OSError as exc:
        console.warn(f"the program `{base}` was not kept beside its core dump: {exc.strerror}")
        return ""
    return os.path.join(os.readlink(f"/proc/self/fd/{directory}"), kept)


def _copy_new(source: int, directory: int, names: tuple[str, str]) -> str:
    """Copy under the first of two names that is free, and return it."""
    first, second = names
    try:
        beneath.copy(source, directory, first)
    except FileExistsError:
        beneath.copy(source, directory, second)
        return second
    return first
