"""What the guest sees: each promise of docs/environment.md, as root and as an unprivileged user."""

import hashlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

from tests.vm.conftest import Vimto

BIG = "x" * (100 << 10)
LINES = "first\nsecond=2\n\n\tlast\n"

# Run on the host and in the guest, by the same user: every line must be equal.
SAME = r"""
echo "user $(id -u) $(id -g) $(id -G)"
echo "umask $(umask)"
echo "directory $(pwd) $(pwd -P)"
echo "path $PATH"
echo "files $(ulimit -Sn) $(ulimit -Hn)"
echo "big ${#BIG}"
printf 'lines %s' "$LINES" | sha256sum
env -u TMPDIR -u _ -u SHLVL -u OLDPWD -u PWD | sort | sha256sum
echo "shell $(readlink -f "$(command -v sh)")"
[ -t 0 ] || echo "stdin is no terminal"
readlink /proc/self/fd/0
"""


def run_here(vimto: Vimto, script: str, env: dict[str, str]) -> str:
    """Run the script on the host as `vimto`'s user would."""
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=vimto.directory,
        env=vimto.environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        umask=0o027,
        **vimto.person(),  # type: ignore[call-overload]
    )
    text = done.stdout.decode()
    assert isinstance(text, str)
    return text


def make_repository(vimto: Vimto) -> Path:
    """Make vimto's directory one below the root of a repository, and return that root."""
    root = vimto.directory
    for path in (root / ".git", root / "deep", root / "deep/er"):
        path.mkdir()
        os.chown(path, vimto.user, vimto.group)
    vimto.directory = root / "deep/er"
    return root


def test_the_command_is_who_and_where_it_would_be_on_the_host(anyone: Vimto) -> None:
    env = {"BIG": BIG, "LINES": LINES, "EMPTY": "", "NAME WITH SPACE": "v", "VIMTO_MEMORY": "1G"}
    visible = {name: value for name, value in env.items() if not name.startswith("VIMTO_")}
    host_only = {name for name in anyone.variables if name.startswith("VIMTO_")}
    anyone_here = dict(anyone.environment(visible))
    script = "".join(f"unset {name}\n" for name in {*host_only, "VIMTO_CACHE_DIR"}) + SAME
    host = run_here(anyone, script, visible)
    assert "TMPDIR" in anyone_here
    guest = anyone.script(SAME + 'echo "TMPDIR=${TMPDIR-unset}"', env=env, umask=0o027).check()
    assert guest.text.splitlines() == [*host.splitlines(), "TMPDIR=unset"]
    assert f"user {anyone.user} {anyone.group} " in guest.text


def test_writes_to_the_repository_survive_and_no_others(anyone: Vimto) -> None:
    root = make_repository(anyone)
    elsewhere = Path(f"/var/tmp/vimto-{anyone.mark}")
    host_tmp = Path(f"/tmp/vimto-host-{anyone.mark}")
    data = os.urandom(3 << 20)
    (root / "old").write_bytes(data)
    (root / "doomed").write_text("x")
    os.chown(root / "old", anyone.user, anyone.group)
    host_tmp.write_text("the host's")
    try:
        anyone.script(
            f"""
            set -e
            echo here > here; echo up > ../../up; mkdir ../new; echo in > ../new/in
            ln -s here link; ln here hard; mv ../../old ../../renamed; rm -f ../../doomed
            cat ../../renamed ../../renamed > twice
            : > script; chmod 751 script
            test ! -e {host_tmp}; echo private > {host_tmp}
            echo lost > {elsewhere}; cat {elsewhere} > seen
            test "$(stat -c %a /tmp)" = 1777
            for dir in /tmp /dev/shm; do echo x > $dir/x; rm $dir/x; done
            """,
            umask=0o022,
        ).check()
        assert (root / "deep/er/here").read_text() == "here\n"
        assert (root / "up").read_text() == "up\n"
        assert (root / "deep/new/in").read_text() == "in\n"
        assert os.readlink(root / "deep/er/link") == "here"
        assert (root / "deep/er/hard").stat().st_nlink == 2
        assert (root / "renamed").read_bytes() == data
        assert not (root / "old").exists() and not (root / "doomed").exists()
        assert (root / "deep/er/twice").read_bytes() == data * 2
        assert stat.S_IMODE((root / "deep/er/script").stat().st_mode) == 0o751
        for path in (root / "up", root / "deep/new", root / "deep/er/here"):
            assert (path.stat().st_uid, path.stat().st_gid) == (anyone.user, anyone.group)
        assert (root / "deep/er/seen").read_text() == "lost\n"
        assert not elsewhere.exists()
        assert host_tmp.read_text() == "the host's"
    finally:
        host_tmp.unlink()


MAPPED = """
import mmap, os
with open("mapped", "r+b") as file:
    view = mmap.mmap(file.fileno(), 0)
    view[:] = bytes(i % 251 for i in range(len(view)))
os.kill(os.getpid(), 9)  # neither msync nor munmap
"""


def test_what_was_written_through_a_mapping_is_on_the_host(anyone: Vimto) -> None:
    path = anyone.directory / "mapped"
    path.write_bytes(bytes(1 << 20))
    os.chown(path, anyone.user, anyone.group)
    anyone("exec", "/usr/bin/python3", "-I", "-S", "-c", MAPPED).check(128 + 9)
    assert path.read_bytes() == bytes(i % 251 for i in range(1 << 20))


def test_nothing_is_lost_at_the_end(vimto: Vimto) -> None:
    # The last bytes of a file and of the output, written just before the end.
    script = "head -c 5000000 /dev/zero > zeros; seq 200000 > numbers; seq 50000; kill -9 $$"
    outcome = vimto.script(script).check(128 + 9)
    assert outcome.stdout == b"".join(b"%d\n" % i for i in range(1, 50001))
    assert (vimto.directory / "zeros").read_bytes() == bytes(5000000)
    numbers = (vimto.directory / "numbers").read_bytes()
    assert numbers == b"".join(b"%d\n" % i for i in range(1, 200001))


def test_root_with_sudo_and_users_by_name_and_number(stranger: Vimto) -> None:
    show = 'echo "$(id -u) $(id -g) $(id -G)"'
    assert stranger("-sudo", "exec", "sh", "-c", show).check().text == "0 0 0\n"
    assert stranger("-user", "daemon", "exec", "sh", "-c", show).check().text == "1 1 1\n"
    assert stranger("-user", "4711", "exec", "sh", "-c", show).check().text == "4711 4711 4711\n"
    (stranger.directory / ".vimto.toml").write_text('user = "root"\n')
    assert stranger.script(show).check().text == "0 0 0\n"
    refused = stranger("-user", "nobody-knows", "exec", "true").check(125)
    assert "there is no user `nobody-knows`" in refused.errors


def test_a_crash_leaves_a_core_dump_beside_the_test(anyone: Vimto) -> None:
    anyone.script("sh -c 'kill -SEGV $$'; exit 7").check(7)
    (core,) = anyone.directory.glob("core-sh-*")
    assert core.read_bytes()[:4] == b"\x7fELF"
    assert core.stat().st_uid == anyone.user
    anyone.script("kill -ABRT $$").check(128 + 6)


# What docs/environment.md promises of the machine itself, one fact a line.
MACHINE = r"""
echo "hostname $(hostname)"
for name in lo; do echo "$name $(cat /sys/class/net/$name/flags)"; done
for fs in proc sysfs devtmpfs devpts tmpfs mqueue cgroup2 bpf debugfs tracefs securityfs; do
    awk -v fs=$fs '$3 == fs { print "mount", fs, $2 }' /proc/mounts
done
for device in null zero full random urandom tty ptmx kmsg fd/0 stdin stdout stderr; do
    [ -e /dev/$device ] && echo "device $device"
done
echo "limits core=$(ulimit -c) memlock=$(ulimit -l) nproc=$(ulimit -p)"
echo "core_pattern $(cat /proc/sys/kernel/core_pattern)"
echo "cpus $(grep -c ^processor /proc/cpuinfo)"
echo "memory $(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)"
echo "pid1 $(cat /proc/1/comm)"
echo "time $(date +%s)"
echo "host.conf $(sha256sum < /etc/passwd)"
echo "interfaces $(ls /sys/class/net)"
dmesg | grep -q 'Linux version' && echo "dmesg readable"
"""


def test_the_machine_is_as_documented(vimto: Vimto) -> None:
    before = int(time.time())
    text = vimto.script(MACHINE).check().text
    facts = text.splitlines()
    assert any(line.startswith("hostname vimto-") for line in facts)
    assert "lo 0x9" in facts  # IFF_UP | IFF_LOOPBACK
    for mount in (
        *("proc /proc", "sysfs /sys", "devtmpfs /dev", "devpts /dev/pts"),
        *("tmpfs /tmp", "tmpfs /run", "tmpfs /dev/shm", "cgroup2 /sys/fs/cgroup"),
        *("bpf /sys/fs/bpf", "debugfs /sys/kernel/debug", "tracefs /sys/kernel/tracing"),
        *("securityfs /sys/kernel/security", "mqueue /dev/mqueue"),
    ):
        assert f"mount {mount}" in facts
    assert sum(line.startswith("device ") for line in facts) == 12
    assert "limits core=unlimited memlock=unlimited nproc=unlimited" in facts
    assert "core_pattern |/proc/1/exe core %P %t %u %g %c %e" in facts
    assert "cpus 2" in facts
    assert "interfaces lo" in facts
    assert "dmesg readable" in facts
    passwd = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()
    assert f"host.conf {passwd}  -" in facts
    (memory,) = (int(line.split()[1]) for line in facts if line.startswith("memory "))
    assert 900 < memory <= 1024
    (clock,) = (int(line.split()[1]) for line in facts if line.startswith("time "))
    assert before - 1 <= clock <= time.time() + 1


# The guest program keeps to processor 0, and has carried out a small order before.
LEAVINGS = r"""
grep Cpus_allowed_list /proc/1/status /proc/self/status
tr '\0' '\n' < /proc/1/environ | grep GODEBUG
env | grep GODEBUG
find /tmp /run -xdev -mindepth 1 -not -type l -not -path '/run/lock*' -not -path '/run/user*'
for task in /proc/[0-9]*; do readlink $task/exe; done
true
"""


def test_the_guest_program_leaves_no_trace_in_the_command(either: Vimto) -> None:
    either.flags = (*either.flags, "-v", "-v")
    outcome = either.script(LEAVINGS).check()
    facts = [line.replace("\t", " ") for line in outcome.text.splitlines()]
    assert facts[:3] == [
        "/proc/1/status:Cpus_allowed_list: 0",
        "/proc/self/status:Cpus_allowed_list: 0-1",
        "GODEBUG=asyncpreemptoff=1",
    ]
    # The ways to the share, and to where vimto is installed, should that be in /tmp; of processes
    # PID 1, the shell and who looks.
    shown = (either.directory, Path(sys.prefix))
    known = ["/init", *(str(each) for path in shown for each in (path, *path.parents))]
    rest = [line for line in facts[3:] if line not in known]
    assert [line for line in rest if not line.startswith("/usr/bin/")] == []
    assert b"priming" not in outcome.stderr


def test_two_machines_of_one_save_differ(vimto: Vimto) -> None:
    script = "hostname; head -c 16 /dev/urandom | sha256sum; cat /proc/sys/kernel/random/uuid"
    first, second = (vimto.script(script).check().text.splitlines() for _ in range(2))
    assert len(first) == 3
    assert not set(first) & set(second)


def test_a_full_disk_is_an_error_and_not_the_end(vimto: Vimto) -> None:
    outcome = vimto.script(
        "for place in /etc /tmp /run /dev/shm; do "
        "head -c 500M /dev/zero > $place/big 2>>errors && echo fits; rm -f $place/big; done; "
        "echo alive"
    ).check()
    assert outcome.text == "alive\n"
    assert (vimto.directory / "errors").read_text().count("No space left on device") == 4
    assert "kernel complained" not in outcome.errors


def test_setup_and_teardown_surround_the_command(stranger: Vimto) -> None:
    # As users of the Go tool have it: cgroup2 is mounted by setup although the guest has it.
    (stranger.directory / ".vimto.toml").write_text(
        'setup = ["mount -t cgroup2 cgroup2 /sys/fs/cgroup", "sh -c \'id -u > order\'",'
        ' ["sh", "-c", "echo \\"$0\\" >> order; echo loud; pwd >> order", "a b"]]\n'
        "teardown = [\"sh -c 'echo torn >> order; id -u >> order; echo said'\"]\n"
    )
    order = stranger.directory / "order"
    outcome = stranger.script(
        "grep -c ' /sys/fs/cgroup cgroup2 ' /proc/mounts; id -u; test ! -w order; exit 3",
        umask=0o022,
    ).check(3)
    assert outcome.text == f"1\n{stranger.user}\n"
    assert order.read_text() == f"0\na b\n{stranger.directory}\ntorn\n0\n"
    assert "said" in outcome.errors and "said" not in outcome.text
    assert "loud" not in outcome.errors


def test_a_setup_that_fails_is_no_result(vimto: Vimto) -> None:
    setup = ("-setup", "sh -c 'echo why >&2; exit 4'", "-teardown", "touch torn")
    outcome = vimto(*setup, "exec", "touch", "ran").check(125)
    assert "ended with status 4" in outcome.errors and "why" in outcome.errors
    assert not (vimto.directory / "ran").exists()
    assert (vimto.directory / "torn").exists()


def test_a_teardown_that_fails_is_no_success(vimto: Vimto) -> None:
    teardown = ("-teardown", "sh -c 'echo why; exit 4'", "-teardown", "touch torn")
    outcome = vimto(*teardown, "exec", "echo", "fine").check(125)
    assert outcome.text == "fine\n"
    assert "why\n" in outcome.errors
    assert outcome.errors.endswith(
        "error: teardown: command `sh -c echo why; exit 4` ended with status 4\n"
    )
    assert (vimto.directory / "torn").exists()
    for script, status in (("exit 7", 7), ("kill -KILL $$", 137)):
        outcome = vimto(*teardown, "exec", "sh", "-c", script).check(status)
        assert "why\n" in outcome.errors
        assert "warning: teardown: command" in outcome.errors
    outcome = vimto("-timeout", "5s", "-teardown", "sleep 1000", "exec", "true").check(125)
    assert "had ended, but a `teardown` command was still running after 5 s" in outcome.errors


def test_kernel_parameters_and_shares(vimto: Vimto, tmp_path: Path) -> None:
    live, writable = tmp_path / "live", tmp_path / "write,able: 'x"
    for path in (live, writable):
        path.mkdir()
        (path / "file").write_text("host's\n")
    script = (
        'cat /proc/sys/kernel/pid_max "$1/file" "$2/file"; echo new > "$2/new"; '
        'echo new > "$1/new"; grep -o quiet-please /proc/cmdline'
    )
    outcome = vimto(
        *("-sysctl", "kernel.pid_max=12345", "-kernel-args", "quiet-please=1"),
        *("-share", f"{live}:ro", "-share", str(writable)),
        *("exec", "sh", "-c", script, "sh", str(live), str(writable)),
    ).check()
    assert outcome.text == "12345\nhost's\nhost's\nquiet-please\n"
    assert "Read-only file system" in outcome.errors
    assert (writable / "new").read_text() == "new\n"
    assert not (live / "new").exists()


def test_the_kernels_own_modules_can_be_loaded(vimto: Vimto) -> None:
    # The second one the kernel asks for by itself, when a file system is first mounted.
    script = """
    PATH=$PATH:/usr/sbin:/sbin
    stat -c '%n %a %t:%T' /dev/net/tun /dev/fuse
    exec 3<>/dev/net/tun && grep -w ^tun /proc/modules | cut -d ' ' -f 1
    modprobe loop && test -e /dev/loop-control && echo loop
    mkdir /tmp/fs && mount -t iso9660 none /tmp/fs 2>/dev/null
    grep -w iso9660 /proc/filesystems
    """
    assert vimto.script(script).check().text.split() == [
        *("/dev/net/tun", "666", "a:c8", "/dev/fuse", "666", "a:e5"),
        *("tun", "loop", "iso9660"),
    ]


def test_the_kernels_complaints_are_shown(vimto: Vimto) -> None:
    # SysRq f runs the OOM killer, whose word is one of the complaints.
    # It may choose this shell.
    script = """
    sleep 1000000 & echo f > /proc/sysrq-trigger
    until dmesg | grep -q 'Out of memory: Killed'; do sleep 0.1; done
    kill $! 2>/dev/null; true
    """
    outcome = vimto.script(script)
    assert "warning: the kernel complained" in outcome.errors
    assert "Out of memory: Killed process" in outcome.errors
    quiet = vimto.script("echo '<3>BUG: only said' > /dev/kmsg").check()
    assert "complained" not in quiet.errors


def test_directories_with_unusual_names(vimto: Vimto) -> None:
    names = ["a,b", "c:d", "e f", "g'h\"i", "j\\k", "é", "l=m", "%n"]
    vimto.directory = vimto.directory / " ".join(names)
    vimto.directory.mkdir()
    for name in names:
        (vimto.directory.parent / name).mkdir()
    flags = [word for name in names for word in ("-share", f"../{name}")]
    script = 'pwd > "$1"; shift; for name; do echo "$name" > "../$name/in"; done'
    vimto(*flags, "exec", "sh", "-c", script, "sh", "x,y: 'z", *names).check()
    assert (vimto.directory / "x,y: 'z").read_text() == f"{vimto.directory}\n"
    for name in names:
        assert (vimto.directory.parent / name / "in").read_text() == f"{name}\n"


def test_names_that_are_not_utf8(vimto: Vimto) -> None:
    name = os.fsdecode(b"b\xff\xe9,d")
    vimto.directory = vimto.directory / name
    vimto.directory.mkdir()
    env = {"BYTES": os.fsdecode(b"\x80\xfe")}
    outcome = vimto(
        *("exec", "sh", "-c", 'printf "%s" "$1$BYTES"; pwd > "$1"', "sh", b"\xf0\xff.txt"), env=env
    ).check()
    assert outcome.stdout == b"\xf0\xff.txt\x80\xfe"
    path = vimto.directory / os.fsdecode(b"\xf0\xff.txt")
    assert path.read_bytes() == os.fsencode(vimto.directory) + b"\n"
