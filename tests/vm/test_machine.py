"""What every machine has, under the oldest, the stable and the newest kernel: one run each."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.vm.conftest import AS_ROOT, NEWEST, OLDEST, STABLE, Vimto, unpacked
from vimto.kernel import depmod
from vimto.kernel.modules import MACHINE, TRANSPORTS, resolve_modules

# One fact a line; what a failing command says is in the facts as well.
FACTS = r"""
exec 2>&1
PATH=$PATH:/usr/sbin:/sbin
awk '{ print "mount", $3, $2 }' /proc/mounts
echo "config $(grep -c ^CONFIG_ /boot/config-$(uname -r))"
echo "clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
dmesg | grep -i 'unstable'
echo "named $(hostname) $(hostname -f) $(getent hosts $(hostname) | awk '{ print $2 }')"
echo "localhost $(getent hosts localhost)"
mkdir /sys/fs/cgroup/t && echo 50M > /sys/fs/cgroup/t/memory.max
echo "memory.max $(cat /sys/fs/cgroup/t/memory.max)"
[ "$(cat /sys/fs/cgroup/cgroup.controllers)" = "$(cat /sys/fs/cgroup/cgroup.subtree_control)" ] &&
    echo "controllers all"
for place in /tmp /var /run; do echo "inodes $place $(stat -f -c %c $place)"; done
for number in $(seq 1 64); do kill -$number 1; done
sleep 0.2; echo "pid1 $(cat /proc/1/comm)"
echo "ignored $(grep SigIgn /proc/self/status)"
# The kernel asks for these by itself; the next come by the host's modprobe, and by ours.
exec 3<>/dev/net/tun; mkdir /tmp/iso; mount -t iso9660 none /tmp/iso
modprobe loop
ours=$(cat /proc/sys/kernel/modprobe)
$ours ifb numifbs=3; $ours -q nonsense; echo "nonsense $?"
for name in tun isofs loop ifb; do [ -d /sys/module/$name ] && echo "loaded $name"; done
echo "parameter $(ls /sys/class/net | grep -c ifb)"
$ours -r ifb; [ -d /sys/module/ifb ] || echo "removed ifb"
stat -c 'node %n %a %t:%T' /dev/net/tun /dev/fuse
"""


@pytest.mark.parametrize("kernel", [OLDEST, STABLE, NEWEST])
def test_what_every_machine_has(vimto: Vimto, kernel: str) -> None:
    vimto.flags = (*AS_ROOT, "-kernel", kernel)
    text = vimto.script(FACTS).check().text
    facts = text.splitlines()
    for mount in (
        *("configfs /sys/kernel/config", "fusectl /sys/fs/fuse/connections"),
        "binfmt_misc /proc/sys/fs/binfmt_misc",
    ):
        assert f"mount {mount}" in facts, text
    told = dict(line.split(maxsplit=1) for line in facts if " " in line)
    assert int(told["config"]) > 1000, text
    assert told["clock"] in ("tsc", "kvm-clock"), text
    assert "unstable" not in text
    name, full, found = told["named"].split()
    assert name == full == found and name.startswith("vimto-")
    assert "localhost" in told["localhost"]
    assert told["memory.max"] == str(50 << 20), text
    assert told["controllers"] == "all", text
    for place, count in (("/tmp", 1 << 20), ("/var", 1 << 20), ("/run", 800 << 10)):
        assert f"inodes {place} {count}" in facts, text
    assert told["pid1"] == "init" and told["ignored"].endswith("\t0000000000000000"), text
    for fact in (
        *("loaded tun", "loaded isofs", "loaded loop", "loaded ifb", "removed ifb"),
        *("parameter 3", "nonsense 1", "node /dev/net/tun 666 a:c8", "node /dev/fuse 666 a:e5"),
    ):
        assert fact in facts, text
    assert name not in Path("/etc/hosts").read_text()


def test_a_restored_clock_goes_as_fast_as_the_hosts(vimto: Vimto) -> None:
    script = ("exec", "--", "sh", "-c", "while read line; do date +%s%N; done")
    looks = []
    with vimto.start(*script, stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        for _ in range(3):
            before = time.time_ns()
            process.stdin.write(b"\n")
            process.stdin.flush()
            there = int(process.stdout.readline())
            looks.append((before, there, time.time_ns()))
            time.sleep(2)  # what is measured
        process.stdin.close()
        assert process.wait() == 0
    (first, there, early), _, (late, there_again, last) = looks
    passed = there_again - there
    assert (late - early) * 0.98 < passed < (last - first) * 1.02


def test_links_in_run_lead_where_the_hosts_do(vimto: Vimto) -> None:
    # As on NixOS: /run/current-system/sw/bin holds all programs.
    link = Path(f"/run/vimto-{vimto.mark}")
    programs = vimto.directory / "sw/bin"
    programs.mkdir(parents=True)
    (programs / "hello").write_text("#!/bin/sh\necho hello\n")
    (programs / "hello").chmod(0o755)
    link.symlink_to(vimto.directory)  # the fixture's user is root
    try:
        outcome = vimto(
            "exec", "hello", env={"PATH": f"{link}/sw/bin:{os.environ['PATH']}"}
        ).check()
    finally:
        link.unlink()
    assert outcome.text == "hello\n"


# As a package is before its installation, and as `cp` leaves it; the modules that a test needs.
WANTED = (*(driver.module for driver in (*MACHINE, *TRANSPORTS["9p"])), "loop", "ifb")
MODULES = """
PATH=$PATH:/usr/sbin:/sbin
modprobe loop && $(cat /proc/sys/kernel/modprobe) ifb && grep -cE '^(loop|ifb) ' /proc/modules
grep -c ^CONFIG_ /boot/config-$(uname -r)
"""


@pytest.mark.parametrize(("kernel", "place"), [(STABLE, ""), (NEWEST, "usr/lib/modules/{release}")])
def test_modules_without_an_index(vimto: Vimto, tmp_path: Path, kernel: str, place: str) -> None:
    """A tree, and a bare directory that holds the kernel and its modules."""
    package = unpacked(kernel)
    (modules_of,) = package.glob("usr/lib/modules/*")
    index = depmod.read_index(modules_of, cache=tmp_path)
    wanted = [module.path for module in resolve_modules(index, WANTED).modules]
    image = next(path for path in package.rglob("vmlinuz*"))
    config = next(path for path in package.rglob("config*"))
    builtin = modules_of / "modules.builtin"
    tree = vimto.directory / "tree"
    for path in (*wanted, image, config, builtin):
        copy = tree / path.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (tree / modules_of.relative_to(package) / "modules.dep").write_text("")
    where = tree / place.format(release=modules_of.name)
    vimto.flags = (*AS_ROOT, "-kernel", str(where), "-no-snapshot")
    loaded, options = vimto.script(MODULES).check().text.split()
    assert loaded == "2" and int(options) > 1000


@pytest.mark.slow
def test_the_console_does_not_fill_the_hosts_memory(vimto: Vimto) -> None:
    # An emulated serial port takes 150 KB a second, less on a busy host; it is cut at 4 MiB.
    script = "head -c 4500000 /dev/zero | tr '\\0' x > /dev/ttyS0; echo at-the-end > /dev/ttyS0"
    words = ("-v", "-v", "-no-snapshot", "exec", "--", "sh", "-c", script)
    errors = vimto(*words, limit=900).check().errors
    assert "Linux version" in errors and "at-the-end" in errors
    assert "bytes left out)" in errors
    assert len(errors) < 6 << 20


@pytest.mark.parametrize("name", ["x,readonly=on", 'a "quoted", one'])
def test_a_directory_of_any_name_is_shared_under_it(vimto: Vimto, name: str) -> None:
    """A configuration file has no quotes: for the second a QEMU that was loaded starts anew."""
    vimto.directory = vimto.directory / name
    vimto.directory.mkdir()
    assert vimto.script("pwd; echo written >file").check().text == f"{vimto.directory}\n"
    assert (vimto.directory / "file").read_text() == "written\n"
