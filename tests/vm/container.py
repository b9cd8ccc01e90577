"""A container as Docker and Podman make them by default, of what unshare(1) has, around vimto.

Its root is a layer over an image that stays as it is. It has namespaces of its own for processes,
mounts, IPC and the host's name; few devices, 64 MiB of /dev/shm, a masked /proc and a read-only
/sys; the capabilities that Docker leaves, and vimto itself as process 1.
"""

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.vm.conftest import Vimto

# What Docker leaves to root: neither CAP_SYS_ADMIN nor CAP_SYS_PTRACE are among them.
_CAPABILITIES = (
    "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,"
    "+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap"
)

# sh -c _ENTER sh IMAGE SCRATCH DIRECTORY EXTRA VOLUME… -- COMMAND…, in new namespaces. SCRATCH is
# an empty directory, EXTRA a script for within, at the root that is to be; VOLUME is FROM:TO[:ro].
_ENTER = r"""
set -eu
image=$1 scratch=$2 directory=$3 extra=$4
shift 4
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$scratch"
cd "$scratch"
mkdir upper work root
mount -t overlay -o lowerdir="$image",upperdir=upper,workdir=work overlay root
cd root
chmod 1777 tmp var/tmp

mount -t tmpfs -o mode=755,size=64k tmpfs dev
mkdir dev/pts dev/shm
mount -t tmpfs -o mode=1777,size=64m,nosuid,nodev,noexec tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
for name in null zero full random urandom tty; do
    touch dev/$name
    mount --bind /dev/$name dev/$name
done
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
ln -s pts/ptmx dev/ptmx

mount -t proc -o nosuid,nodev,noexec proc proc
for name in kcore keys timer_list; do
    [ ! -e proc/$name ] || mount --bind dev/null proc/$name
done
for name in acpi scsi; do
    [ ! -e proc/$name ] || mount -t tmpfs -o ro tmpfs proc/$name
done
for name in bus fs irq sys sysrq-trigger; do
    [ ! -e proc/$name ] || mount --bind proc/$name proc/$name
    [ ! -e proc/$name ] || mount -o remount,bind,ro,nosuid,nodev,noexec proc/$name
done
mount --rbind /sys sys
mount -o remount,bind,ro,nosuid,nodev,noexec sys
mount -t tmpfs -o ro tmpfs sys/firmware
mount -t tmpfs tmpfs sys/fs/cgroup

while [ "$1" != -- ]; do
    to=${1#*:}
    to=${to%:ro}
    mkdir -p ".$to"
    mount --bind "${1%%:*}" ".$to"
    case $1 in *:ro) mount -o remount,bind,ro ".$to" ;; esac
    shift
done
shift
eval "$extra"
mkdir old
pivot_root . old
umount -l old
rmdir old
cd "$directory"
exec "$@"
"""


@dataclass(kw_only=True)
class Container(Vimto):
    """A vimto that is process 1 of a new container at each call.

    `program` and `directory` are paths in it. It runs as root of the host, or where `rootless`, or
    where we are not root, as root of a user namespace that knows no other user; as the user
    `number` where that is not 0. `extra` is a script that alters the container before it begins.
    """

    image: Path
    scratch: Path
    volumes: list[str] = field(default_factory=list)
    rootless: bool = False
    number: int = 0
    extra: str = ""

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what is set in an image such as Go's, and what Docker sets."""
        path = "/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        own = {"PATH": path, "HOME": "/root", "HOSTNAME": "c0ffee", "TEST_MARK": self.mark}
        found = own | dict(self.variables) | dict(extra or {})
        return {name: value for name, value in found.items() if value}

    def start(
        self, *words: str | bytes, env: Mapping[str, str] | None = None, **options: object
    ) -> "subprocess.Popen[bytes]":
        settings: dict[str, object] = {
            "cwd": "/",
            "env": self.environment(env),
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        argv = [*self.entering(), self.program, *self.flags, *words]
        return subprocess.Popen(argv, **(settings | options))  # type: ignore[call-overload]

    def entering(self) -> list[str]:
        """Return the command line that runs what follows it in a container."""
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]
        rootless = self.rootless or os.geteuid() != 0
        if rootless:
            namespaces.append("--map-root-user")
        place = [str(self.image), str(self.scratch), str(self.directory), self.extra]
        enter = ["/bin/sh", "-c", _ENTER, "sh", *place, *self.volumes, "--"]
        number = str(self.number)
        limits = ["setpriv", "--no-new-privs", "--bounding-set", _CAPABILITIES]
        if self.number and rootless:  # it has no capabilities to begin with
            limits = ["unshare", "--user", "--map-user", number, "--map-group", number]
        elif self.number:
            # To become another user undoes what --kill-child has set.
            user = ["--reuid", number, "--regid", number, "--clear-groups"]
            limits += [*user, "--pdeathsig", "KILL"]
        return ["unshare", *namespaces, *enter, *limits]


def process_one(process: "subprocess.Popen[bytes]") -> int:
    """Return the number, as we see it, of process 1 of a container that was started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 10.0
    while not (found := children.read_text().split()):
        assert time.monotonic() < deadline, "the container has no process"
        time.sleep(0.01)
    return int(found[0])
