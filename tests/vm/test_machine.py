"""What every machine has, under the oldest, the stable and the newest kernel: one run each."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.vm.conftest import NEWEST, OLDEST, STABLE, Vimto

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
"""


@pytest.mark.parametrize("kernel", [OLDEST, STABLE, NEWEST])
def test_what_every_machine_has(vimto: Vimto, kernel: str) -> None:
    vimto.flags = ("-kernel", kernel)
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
