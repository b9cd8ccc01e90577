"""What files in a share cannot do: the words of docs/environment.md, and when they have changed.

A fact that is other than the table has it is news: a kernel or a QEMU can do more (or less).
"""

import fcntl
import os
import shutil
import time

import pytest

from tests.vm.conftest import AS_ROOT, IS_ROOT, NEWEST, OLDEST, STABLE, Vimto
from tests.vm.test_qemus import program

# One fact a line: its name, and what came of it or the error's name.
PROBE = r"""
import ctypes, errno, fcntl, mmap, os, socket, stat

libc = ctypes.CDLL(None, use_errno=True)

def attempt(name, do):
    try:
        print(name, do())
    except OSError as exc:
        print(name, errno.errorcode[exc.errno])

def call(function, *arguments):
    result = getattr(libc, function)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), function)
    return result

def make(name, text=b"12345"):
    with open(name, "wb") as file:
        file.write(text)
    return name

def deleted():
    file = open(make("deleted"), "r+b", buffering=0)
    os.unlink("deleted")
    return file

def replaced():
    with open(make("old"), "rb", buffering=0) as file:
        os.rename(make("new", b"123"), "old")
        return os.fstat(file.fileno()).st_size, len(file.read(9))

def rename(flag):
    os.path.exists("b") and os.unlink("b")
    make("a")
    if flag == 2:
        make("b")
    return call("renameat2", -100, b"a", -100, b"b", flag)

def set_time():
    os.utime(make("time"), ns=(1_500_000_000, 1_500_000_000))
    return os.stat("time").st_mtime_ns

def hole():
    with open("sparse", "wb") as file:
        file.truncate(1 << 20)
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE)

def lease():
    with open(make("lease")) as file:
        return fcntl.fcntl(file.fileno(), fcntl.F_SETLEASE, fcntl.F_RDLCK)

def watch_handles():  # FAN_REPORT_FID, FAN_CREATE
    group = call("fanotify_init", 0x200, 0)
    return call("fanotify_mark", group, 1, ctypes.c_uint64(0x100), -100, b".")

def bind():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")

def mapped():
    with deleted() as file, mmap.mmap(file.fileno(), 5) as view:
        return view[0:1]

def lock(how):
    with open("locked", "r+b") as file:
        return how(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

attempt("flock", lambda: lock(fcntl.flock))
attempt("lockf", lambda: lock(fcntl.lockf))
with open("locked") as holder:
    fcntl.flock(holder, fcntl.LOCK_EX)
    attempt("flock-here", lambda: lock(fcntl.flock))
attempt("replaced", replaced)
with deleted() as file:
    attempt("deleted-read", lambda: file.read(1))
    attempt("deleted-write", lambda: file.write(b"x"))
    attempt("deleted-stat", lambda: os.fstat(file.fileno()).st_size)
    attempt("deleted-truncate", lambda: file.truncate(1))
    attempt("deleted-chmod", lambda: os.fchmod(file.fileno(), 0o600))
attempt("deleted-map", mapped)
attempt("set-time", set_time)
attempt("host-time", lambda: os.stat("locked").st_mtime_ns)
attempt("noreplace", lambda: rename(1))
attempt("exchange", lambda: rename(2))
attempt("hole", hole)
attempt("lease", lease)
attempt("watch-handles", watch_handles)
attempt("temporary", lambda: os.open(".", os.O_TMPFILE | os.O_RDWR))
attempt("attribute", lambda: os.setxattr("locked", "user.x", b"1"))
attempt("fifo", lambda: os.mkfifo("fifo"))
attempt("node", lambda: os.mknod("node", 0o600 | stat.S_IFCHR, os.makedev(1, 3)))
attempt("socket", bind)
"""

ALWAYS = {
    "flock": "None",  # although the host holds it
    "lockf": "None",
    "flock-here": "EAGAIN",
    "replaced": "(3, 5)",
    "deleted-read": "b'1'",
    "deleted-write": "1",
    "deleted-stat": "5",
    "deleted-truncate": "ENOENT",
    "deleted-chmod": "ENOENT",
    "deleted-map": "ENOENT",
    "set-time": "1000000000",
    "host-time": "1500000000",
    "noreplace": "EINVAL",
    "exchange": "EINVAL",
    "hole": str(1 << 20),
    "lease": "EINVAL",
    "watch-handles": "ENOTSUP",
    "temporary": "ENOTSUP",
    "attribute": "None",
    "fifo": "None",
    "node": "None",
    "socket": "None",
}
OLD_QEMU = {"fifo": "ENXIO", "node": "ENXIO", "socket": "ENXIO"}  # 7.2
OLD_KERNEL = {"deleted-stat": "ENOENT"}  # 5.10
NEW_QEMU = {"deleted-truncate": "1"}  # 11
NEW_KERNEL = {  # 7.x
    "replaced": "(3, 3)",
    "deleted-map": "b'1'",
    "watch-handles": "0",
    "attribute": "ENOTSUP",
}


@pytest.mark.parametrize(
    ("release", "kernel", "other"),
    [
        ("bookworm", OLDEST, OLD_QEMU | OLD_KERNEL),
        ("trixie", OLDEST, OLD_KERNEL),
        ("sid", NEWEST, NEW_QEMU | NEW_KERNEL),
    ],
)
def test_what_a_share_cannot_do(
    vimto: Vimto, release: str, kernel: str, other: dict[str, str]
) -> None:
    path = vimto.directory / "locked"
    path.write_text("x")
    os.utime(path, ns=(1_500_000_000, 1_500_000_000))
    vimto.flags = (*AS_ROOT, "-kernel", kernel, "-qemu", program(release))
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        outcome = vimto("exec", "/usr/bin/python3", "-I", "-S", "-c", PROBE).check()
    found = dict(line.split(" ", 1) for line in outcome.text.splitlines())
    # QEMU makes them on the host, as whoever runs vimto; only root may make a device node.
    possible = {"fifo", "node", "socket"} if IS_ROOT else {"fifo", "socket"}
    assert found == ALWAYS | other | ({} if IS_ROOT else {"node": "EPERM"})
    special = {name for name in ("fifo", "node", "socket") if (vimto.directory / name).exists()}
    assert special == (possible if found["fifo"] == "None" else set())


# Counts what is read from the host while a program is executed, soon after and long after another
# time. Its head is always read; its pages need not be.
AGAIN = r"""
import os, subprocess, time
TRACING = "/sys/kernel/tracing/"

def reads():
    with open(TRACING + "trace") as file:
        return sum("P9_TREAD " in line for line in file)

def switch(value):
    with open(TRACING + "events/9p/9p_client_req/enable", "w") as file:
        file.write(value)

def run():
    words = ["./program", "-c", "echo $0 $1", "x", "y"]
    return subprocess.run(words, stdout=-1).stdout.decode().strip()

def traced():
    open(TRACING + "trace", "w").close()
    switch("1")
    run()
    switch("0")
    return reads()

time.sleep(1)
run()
time.sleep(0.3)
held = traced()
time.sleep(4)
print(held < traced())
open("executed", "w").close()
while not os.path.exists("replaced"):
    time.sleep(0.05)
time.sleep(0.5)  # less than it would be held for
print(run())
"""


@pytest.mark.parametrize("kernel", [STABLE, NEWEST])
def test_a_program_that_is_executed_again_is_not_read_again(vimto: Vimto, kernel: str) -> None:
    vimto.flags = (*AS_ROOT, "-kernel", kernel)
    path = vimto.directory / "program"
    shutil.copy(os.path.realpath("/bin/bash"), path)
    new = vimto.directory / "new"
    new.write_text("#!/bin/sh\necho the new one\n")
    new.chmod(0o755)
    words = ("exec", "/usr/bin/python3", "-I", "-S", "-c", AGAIN)
    with vimto.start(*words) as process:
        while not (vimto.directory / "executed").exists() and process.poll() is None:
            time.sleep(0.05)
        new.rename(path)
        (vimto.directory / "replaced").touch()
        stdout, stderr = process.communicate(timeout=240)
    assert stdout.decode().splitlines() == ["True", "the new one"], stderr
