"""Boot once, restore for ever: a restored machine is fresh, and a bad snapshot costs only time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.vm.conftest import IS_ROOT, STABLE, Module, Vimto, unpacked
from vimto.cache.digest import digest_file
from vimto.vm.claims import Claim

_LIMIT = 120.0


def snapshots_of(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "snapshots").glob("[!.]*") if path.is_dir())


@pytest.fixture
def snapshot(vimto: Vimto, cache: Path) -> Path:
    """The one snapshot in the cache."""
    outcome = vimto("exec", "echo", "made").check()
    assert outcome.stdout == b"made\n"
    (found,) = snapshots_of(cache)
    return found


@pytest.fixture
def small_disk(cache: Path) -> Iterator[Path]:
    """A file system of 40 MiB for snapshots."""
    place = cache / "snapshots"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40M", "snapshots", place], check=False
    )
    if mounted.returncode:
        pytest.skip("this user cannot mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


IDENTITY = """
hostname; cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid
mktemp -u; head -c 16 /dev/urandom | od -An -tx1
test ! -e /tmp/mine -a ! -e /etc/mine || echo used; touch /tmp/mine /etc/mine
"""


def test_two_machines_of_one_snapshot_have_nothing_in_common(vimto: Vimto, snapshot: Path) -> None:
    processes = [vimto.start("exec", "sh", "-c", IDENTITY) for _ in range(2)]
    first, second = (process.communicate(timeout=_LIMIT)[0].split() for process in processes)
    assert len(first) == len(second) == 4 + 16
    assert not set(first[:4]) & set(second[:4])
    assert first[4:] != second[4:]
    third = vimto.script(IDENTITY).check().stdout.split()
    assert len(third) == 4 + 16
    assert len(snapshots_of(snapshot.parents[1])) == 1


def test_the_clock_is_right_to_fifty_milliseconds(vimto: Vimto, snapshot: Path) -> None:
    talk = "while read line; do echo $EPOCHREALTIME; done"
    process = vimto.start("exec", "bash", "-c", talk, stdin=subprocess.PIPE)
    assert process.stdin and process.stdout
    samples = []
    for _ in range(40):
        before = time.time()
        process.stdin.write(b"\n")
        process.stdin.flush()
        guest = float(process.stdout.readline())
        after = time.time()
        # The guest looked at its clock at some time between the two.
        samples.append((after - before, guest - (before + after) / 2))
    process.stdin.close()
    assert process.wait(_LIMIT) == 0
    process.stdout.close()
    assert process.stderr
    process.stderr.close()
    uncertainty, offset = min(samples)
    assert abs(offset) < 0.05 + uncertainty / 2


def test_memory_and_processors_are_as_asked(vimto: Vimto, snapshot: Path) -> None:
    script = "nproc; grep MemTotal /proc/meminfo"
    default = vimto.script(script).check().text.split()
    vimto.flags = (*vimto.flags, "-memory", "512M", "-smp", "1")
    small = vimto.script(script).check().text.split()
    assert (default[0], small[0]) == ("2", "1")
    assert 900_000 < int(default[2]) <= 1 << 20
    assert 400_000 < int(small[2]) <= 1 << 19
    assert len(snapshots_of(snapshot.parents[1])) == 2


def test_machines_that_crowd_the_host_get_one_thread_each(vimto: Vimto, snapshot: Path) -> None:
    """Another one needs the host's processors too; the snapshot is the same."""
    host = len(os.sched_getaffinity(0))
    vimto.flags = (*vimto.flags, "-smp", str(host), "-v")
    others = vimto.start("exec", "sh", "-c", "echo; read line", stdin=subprocess.PIPE)
    assert others.stdout and others.stdout.readline() == b"\n"
    crowded = vimto("exec", "nproc").check()
    _, log = others.communicate(b"\n", timeout=_LIMIT)
    assert b"tcg,thread=multi" in log
    assert b"tcg,thread=single" in crowded.stderr
    assert crowded.text.strip() == str(host)
    assert b"tcg,thread=multi" in vimto("exec", "true").check().stderr


def test_a_processor_to_spare_warms_the_machine_up(vimto: Vimto, snapshot: Path) -> None:
    """A program is started and ended before the command's, where the host has room for it."""

    def faults_of_ended_children() -> int:
        stat = vimto("exec", "cat", "/proc/1/stat").check().text
        return int(stat.rpartition(")")[2].split()[8])

    alone = faults_of_ended_children()
    with closing(Claim(str(snapshot.parent), len(os.sched_getaffinity(0)))):
        crowded = [faults_of_ended_children() for _ in range(2)]
    assert alone > crowded[0] == crowded[1]
    vimto.flags = (*vimto.flags, "-smp", "1")
    single = [faults_of_ended_children() for _ in range(2)]
    assert single[0] == single[1]


def test_more_shares_than_slots_take_a_larger_machine(
    vimto: Vimto, snapshot: Path, tmp_path: Path
) -> None:
    places = [tmp_path / f"share {index},x" for index in range(7)]
    for place in places:
        place.mkdir()
        vimto.flags = (*vimto.flags, "-share", str(place))
    script = "".join(f"echo {index} >'{place}/f'; " for index, place in enumerate(places))
    for _ in range(2):  # made, then restored
        vimto.script(script).check()
        assert [(place / "f").read_text() for place in places] == [f"{i}\n" for i in range(7)]
        for place in places:
            (place / "f").unlink()
    assert len(snapshots_of(snapshot.parents[1])) == 2


@pytest.mark.parametrize("shares", [0, 1])
def test_the_snapshot_made_beside_go_is_the_one_that_its_tests_need(
    vimto: Vimto, cache: Path, module: Module, tmp_path: Path, shares: int
) -> None:
    module.test("m_test.go", "func TestNothing(t *testing.T) {}")
    for index in range(shares):
        (tmp_path / f"share{index}").mkdir()
        vimto.flags = (*vimto.flags, "-share", str(tmp_path / f"share{index}"))
    vimto.go(".").check()
    assert len(snapshots_of(cache)) == 1


def test_what_cannot_be_told_to_a_loaded_qemu_starts_another(
    vimto: Vimto, snapshot: Path, tmp_path: Path
) -> None:
    """QEMU loads before it is known which machine it becomes, and its files have no quotes."""
    place = tmp_path / 'say "x", or not'
    place.mkdir()
    vimto.flags = ("-v", *vimto.flags, "-share", str(place))
    outcome = vimto.script(f"echo restored >'{place}/f'").check()
    assert (place / "f").read_text() == "restored\n"
    (line,) = (line for line in outcome.errors.splitlines() if "qemu-system" in line)
    assert line.endswith("-incoming defer")
    assert "warning" not in outcome.errors


def test_more_shares_than_any_machine_has_are_refused(vimto: Vimto, tmp_path: Path) -> None:
    for index in range(30):
        (tmp_path / f"s{index}").mkdir()
        vimto.flags = (*vimto.flags, "-share", str(tmp_path / f"s{index}"))
    outcome = vimto("exec", "true").check(125)
    assert "are to be shared, 28 are the most" in outcome.errors
    assert "hint:" in outcome.errors


def forge(snapshot: Path) -> None:
    """Make the snapshot's description fit what its files have become."""
    info = json.loads((snapshot / "info").read_text())
    for name in ("ram", "state"):
        with open(snapshot / name, "rb") as file:
            info[name] = [file.seek(0, os.SEEK_END), digest_file(file.fileno())]
    (snapshot / "info").write_text(json.dumps(info))


@pytest.mark.parametrize("damage", ["truncated ram", "altered ram", "truncated state", "no info"])
def test_a_damaged_snapshot_is_made_anew(vimto: Vimto, snapshot: Path, damage: str) -> None:
    held = open(snapshot / "ram", "rb")  # noqa: SIM115 (so that no other file gets its inode)
    if damage == "truncated ram":
        os.truncate(snapshot / "ram", 4096)
    elif damage == "altered ram":
        before = (snapshot / "ram").stat()
        with open(snapshot / "ram", "r+b") as file:
            file.seek(32 << 20)
            file.write(b"x" * 4096)
        os.utime(snapshot / "ram", ns=(before.st_atime_ns, before.st_mtime_ns))
    elif damage == "truncated state":
        os.truncate(snapshot / "state", 1000)
    else:
        (snapshot / "info").unlink()
    outcome = vimto.script("echo once >>count; cat count").check()
    assert outcome.stdout == b"once\n"
    assert outcome.stderr.count(b"\n") <= 1
    assert not os.path.samestat((snapshot / "ram").stat(), os.fstat(held.fileno()))
    held.close()
    assert sorted(path.name for path in snapshot.iterdir()) == ["info", "ram", "state"]


def test_a_snapshot_that_does_not_come_back_is_dropped(vimto: Vimto, snapshot: Path) -> None:
    # The description is forged, so that nothing but the silence of the machine gives it away.
    size = (snapshot / "ram").stat().st_size
    os.truncate(snapshot / "ram", 0)
    os.truncate(snapshot / "ram", size)
    forge(snapshot)
    outcome = vimto.script("echo once >>count; cat count").check()
    assert outcome.stdout == b"once\n"
    assert outcome.errors.startswith("warning: the machine was not restored, booting: ")
    assert outcome.errors.endswith("; the snapshot is dropped\n")
    assert outcome.stderr.count(b"\n") == 1
    assert not snapshot.exists()


def test_a_state_that_qemu_refuses_is_dropped(vimto: Vimto, snapshot: Path, module: Module) -> None:
    data = bytearray((snapshot / "state").read_bytes())
    data[:64] = bytes(64)
    (snapshot / "state").write_bytes(data)
    forge(snapshot)
    outcome = vimto("exec", "echo", "hi").check()
    assert outcome.stdout == b"hi\n"
    assert outcome.stderr.count(b"\n") == 1
    assert "load of migration failed: Invalid argument" in outcome.errors, "QEMU's own reason"
    assert not snapshot.exists()
    # For a while machines boot, without another try, and say so; tests leave that to who runs go.
    module.test("m_test.go", "func TestNothing(t *testing.T) {}")
    for words in (("exec", "true"), ("go", "test", ".")):
        outcome = vimto(*words).check()
        assert outcome.errors.startswith("vimto: snapshots of this machine are off until ")
        assert "load of migration failed" in outcome.errors
        assert outcome.errors.count("\n") == 1
    assert b"snapshots" not in outcome.stdout
    assert not snapshot.exists()


def qemu_of(vimto: Vimto) -> int:
    """Return the pid of the one QEMU that runs for `vimto`."""
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and vimto.mark.encode() in (entry / "environ").read_bytes()
                and (entry / "comm").read_text().startswith("qemu-system")
            ):
                return int(entry.name)
        except OSError:
            pass
    raise AssertionError("no QEMU runs")


def test_a_machine_lost_after_the_start_is_never_run_again(vimto: Vimto, snapshot: Path) -> None:
    script = "echo once >>count; echo started; sleep 1000"
    with vimto.start("exec", "sh", "-c", script) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"started\n"
        os.kill(qemu_of(vimto), signal.SIGKILL)
        errors = process.stderr.read().decode()
        assert process.wait(_LIMIT) == 125
    assert "ended before the command reported its status" in errors
    assert (vimto.directory / "count").read_text() == "once\n"
    assert snapshot.exists()


@pytest.mark.parametrize("step", ["", "empty", "ram", "state"])
def test_a_killed_maker_leaves_nothing_that_lasts(vimto: Vimto, cache: Path, step: str) -> None:
    process = vimto.start("exec", "true")
    deadline = time.monotonic() + _LIMIT
    # Kill it as soon as the step has begun; the last one may be over by then, which is fine.
    while not list(cache.glob(f"snapshots/.*~/*/{step}")) and not snapshots_of(cache):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    vimto.wait_gone()
    assert vimto("exec", "echo", "hi").check().stdout == b"hi\n"
    names = [
        path.name for path in (cache / "snapshots").iterdir() if not path.name.endswith(".lock")
    ]
    assert len(names) == 1
    assert not names[0].startswith(".")


def test_too_little_room_is_one_line(vimto: Vimto, small_disk: Path) -> None:
    outcome = vimto("exec", "echo", "hi").check()
    assert outcome.stdout == b"hi\n"
    assert outcome.errors.startswith("warning: the machine was not saved, so it boots: ")
    assert "less than 512 MiB are free" in outcome.errors
    # Whoever comes next looks again, which costs nothing.
    assert vimto("exec", "echo", "hi").check().errors == outcome.errors
    assert [path.name for path in small_disk.iterdir() if not path.name.endswith(".lock")] == []


def test_a_disk_that_fills_up_while_saving_is_one_line(vimto: Vimto, small_disk: Path) -> None:
    code = (
        "import sys, vimto.vm.snapshot as s; s._ROOM_NEEDED = 0\n"
        "import vimto.__main__; vimto.__main__.main()"
    )
    argv = [sys.executable, "-c", code, *vimto.flags, "exec", "echo", "hi"]
    done = subprocess.run(
        argv, cwd=vimto.directory, env=vimto.environment(), capture_output=True, timeout=_LIMIT
    )
    assert (done.returncode, done.stdout) == (0, b"hi\n"), done.stderr
    assert done.stderr.count(b"\n") == 1
    assert f"the disk that holds `{small_disk}` is full: No space left" in done.stderr.decode()
    # There may be room the next time: snapshots are not off.
    assert "less than 512 MiB are free" in vimto("exec", "echo", "hi").check().errors
    assert [path.name for path in small_disk.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.skipif(not IS_ROOT, reason="only root has others that cannot write to what it has")
def test_root_s_cache_serves_others_who_cannot_write_to_it(stranger: Vimto, public: Path) -> None:
    stranger("exec", "true").check()
    cache = public / "cache"
    shutil.copytree(stranger.variables["VIMTO_CACHE_DIR"], cache)

    def listing() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in cache.rglob("*"))

    before = listing()
    stranger.variables = {**stranger.variables, "VIMTO_CACHE_DIR": str(cache)}
    outcome = stranger("exec", "id", "-u").check()
    assert outcome.text == f"{stranger.user}\n"
    assert outcome.stderr == b""
    assert listing() == before
    shutil.rmtree(cache)


def test_removing_snapshots_never_hurts_a_running_machine(vimto: Vimto, snapshot: Path) -> None:
    with vimto.start("exec", "cat", stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"one\n"
        vimto("kernel", "prune", "-all").check()
        vimto("flush-cache").check()
        assert snapshot.exists()
        process.stdin.write(b"two\n")
        process.stdin.close()
        assert process.stdout.read() == b"two\n"
        assert process.wait(_LIMIT) == 0
    vimto("kernel", "prune", "-all").check()
    assert not snapshot.exists()


def test_one_makes_the_snapshot_and_the_others_wait(vimto: Vimto, cache: Path) -> None:
    """One of them as in another container: it sees none of the others' processes."""
    vimto.flags = (*vimto.flags, "-v")
    processes = [vimto.start("exec", "echo", str(index)) for index in range(2)]
    if os.geteuid() == 0:
        program = vimto.program
        vimto.program = "unshare"
        vimto.flags = ("--pid", "--fork", "--kill-child", "--mount-proc", program, *vimto.flags)
    processes.append(vimto.start("exec", "echo", "2"))
    outputs = [process.communicate(timeout=_LIMIT) for process in processes]
    assert [stdout for stdout, _ in outputs] == [b"0\n", b"1\n", b"2\n"]
    commands = b"".join(stderr for _, stderr in outputs)
    assert commands.count(b" -kernel /") == 1, "more than one machine was booted"
    assert commands.count(b" -incoming defer") == 3
    assert len(snapshots_of(cache)) == 1


def test_the_oldest_snapshots_are_removed_past_the_limit(vimto: Vimto, snapshot: Path) -> None:
    vimto.flags = (*vimto.flags, "-snapshot-limit", "1M", "-memory", "600M")
    vimto("exec", "true").check()
    (left,) = snapshots_of(snapshot.parents[1])
    assert left != snapshot
    listing = vimto("kernel", "ls").check().text
    assert "600" in listing
    vimto("-no-snapshot", "-cache-limit", "1M", "exec", "true").check()
    assert snapshots_of(snapshot.parents[1]) == []


def test_snapshots_can_be_turned_off(vimto: Vimto, cache: Path) -> None:
    vimto("-no-snapshot", "exec", "true").check()
    (vimto.directory / ".vimto.toml").write_text("snapshot = false\n")
    vimto("exec", "true").check()
    assert snapshots_of(cache) == []


def test_a_ram_file_is_sparse(snapshot: Path) -> None:
    status = (snapshot / "ram").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 300 << 20


def test_a_cache_in_an_archive_restores_elsewhere(
    vimto: Vimto, cache: Path, tmp_path: Path
) -> None:
    """As a CI's cache does: other paths, inodes and times, for the cache and the kernel alike."""
    tree = tmp_path / "kernel"
    shutil.copytree(unpacked(STABLE), tree, symlinks=True)
    vimto.flags = ("-v", "-kernel", str(tree))
    vimto("exec", "true").check()
    elsewhere, moved = tmp_path / "elsewhere", tmp_path / "moved"
    elsewhere.mkdir()
    (resolved,) = cache.glob("local/*/resolved/*.json")
    used = [Path(name) for name in json.loads(resolved.read_bytes())["entries"]]
    # The modules' index is looked at to resolve a kernel, and not needed by what runs.
    names = [
        "snapshots",
        "modules",
        *(path.relative_to(cache) for path in used if path.is_relative_to(cache)),
    ]
    archive = tmp_path / "cache.tar"
    subprocess.run(["tar", "-C", cache, "-chf", archive, *names], check=True)
    subprocess.run(["tar", "-C", elsewhere, "-xf", archive], check=True)
    shutil.copytree(tree, moved, symlinks=True)
    for path in (*elsewhere.rglob("*"), *moved.rglob("*")):
        os.utime(path, (77, 77), follow_symlinks=False)
    vimto.variables = {**vimto.variables, "VIMTO_CACHE_DIR": str(elsewhere)}
    vimto.flags = ("-v", "-kernel", str(moved))
    restored = vimto("exec", "echo", "hi").check()
    assert restored.stdout == b"hi\n"
    assert " -incoming defer" in restored.errors
    assert " -kernel /" not in restored.errors, "a machine was booted"
    new = {path for path in elsewhere.rglob("*") if path.is_file() and path.stat().st_mtime != 77}
    assert {path.relative_to(elsewhere).parts[0] for path in new} == {"local"}
