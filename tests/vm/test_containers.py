"""vimto in containers, as Docker and Podman start them: process 1, few rights, few devices."""

import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import need
from tests.vm.conftest import STABLE, Outcome, install_copy, unpacked
from tests.vm.container import Container, process_one
from tests.vm.test_kernels import CLOUD
from vimto.cache.entry import entries, is_held
from vimto.config import load_config
from vimto.plan.agent import build_agent

pytestmark = pytest.mark.xdist_group("containers")

_TOOL = Path(__file__).parents[2] / "hack/container"
RESTORED = "the machine is restored from a snapshot"


@pytest.fixture(scope="module")
def image() -> Path:
    """The root of the containers, fetched if it is not there."""
    need("unshare", "go")
    if platform.freedesktop_os_release().get("ID") != "debian":
        pytest.skip("containers are made of Debian's packages, on Debian")
    done = subprocess.run([sys.executable, _TOOL], stdout=subprocess.PIPE, check=True)
    return Path(done.stdout.decode().strip())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all containers share: an installed vimto, and a cache with a guest program."""
    top = tmp_path_factory.mktemp("containers")
    top.parent.chmod(0o755)
    top.chmod(0o755)
    (top / "vimto").mkdir()
    install_copy(top / "vimto", "/usr/bin/python3")
    # With an empty build cache that would take a minute.
    agent = build_agent(cache=load_config({}, os.environ, os.sep).cache_dir).path
    (top / "cache/agent").mkdir(parents=True)
    shutil.copy(agent, top / "cache/agent")
    return top


@pytest.fixture(scope="module")
def pair(image: Path, store: Path) -> list[Outcome]:
    """What two containers said that were the first with their cache, at once: it has a snapshot."""
    directory = store / "pair"
    directory.mkdir()
    (directory / "made").touch()
    boxes = [make_container(image, store, directory, name) for name in ("one", "two")]
    running = [box.start("-v", "-v", "exec", "sh", "-c", "id -u; echo $$ >>made") for box in boxes]
    return [end(process) for process in running]


@pytest.fixture
def box(image: Path, store: Path, tmp_path: Path) -> Iterator[Container]:
    """A container with the shared cache, in a directory of its own that stays; nothing else may."""
    work = tmp_path / "work"
    work.mkdir()
    found = make_container(image, store, work, "scratch")
    yield found
    found.wait_gone()
    assert list(found.scratch.iterdir()) == []


def make_container(image: Path, store: Path, work: Path, name: str) -> Container:
    """Return one whose working directory is `work`; its root is mounted at `name` beside that."""
    scratch = work.parent / name
    scratch.mkdir()
    goroot = subprocess.run(["go", "env", "GOROOT"], stdout=subprocess.PIPE, check=True)
    return Container(
        image=image,
        scratch=scratch,
        directory=Path("/work"),
        program="/opt/vimto/bin/vimto",
        temporary=Path("/tmp"),
        flags=("-kernel", "/kernel"),
        volumes=[
            f"{store}/vimto:/opt/vimto:ro",
            f"{unpacked(STABLE)}:/kernel:ro",
            f"{goroot.stdout.decode().strip()}:/usr/local/go:ro",
            f"{store}/cache:/cache",
            f"{work}:/work",
        ],
        variables={"VIMTO_CACHE_DIR": "/cache"},
    )


def end(process: "subprocess.Popen[bytes]") -> Outcome:
    stdout, stderr = process.communicate(timeout=240)
    return Outcome(status=process.returncode, stdout=stdout, stderr=stderr)


def test_two_that_share_a_cache_make_one_snapshot(pair: list[Outcome], store: Path) -> None:
    """Both are process 1: locks tell them apart, not numbers."""
    for outcome in pair:
        assert outcome.check().text == "0\n"
        assert RESTORED in outcome.errors
    assert sum(outcome.errors.count(" -append ") for outcome in pair) == 1, "one boot for both"
    assert len((store / "pair/made").read_text().splitlines()) == 2


@pytest.mark.usefixtures("pair")
def test_without_root_on_the_host(box: Container, tmp_path: Path) -> None:
    """In a user namespace without other users, with a processor's time, and no link /dev/fd."""
    box.rootless = True
    box.extra = "echo 100000 100000 >sys/fs/cgroup/cpu.max; rm dev/fd"
    (tmp_path / "work/mine").touch()
    script = "stat -c %u mine; id -u; chown 55 mine; modprobe loop && echo loaded; cat /proc/1/comm"
    outcome = box("-v", "-v", "exec", "sh", "-c", script).check()
    assert outcome.text.split() == [str(os.geteuid()), "0", "loaded", "init"]
    assert RESTORED in outcome.errors
    (restored,) = (line for line in outcome.errors.splitlines() if " -incoming " in line)
    assert "thread=single" in restored or "-accel kvm" in restored, "there is one processor"
    assert "Operation not permitted" not in outcome.errors


@pytest.mark.usefixtures("pair")
def test_go_test_with_a_temporary_directory_that_runs_nothing(
    box: Container, tmp_path: Path
) -> None:
    """And with the host's /proc, where numbers differ (`unshare -p` without `--mount-proc`)."""
    work = tmp_path / "work"
    (work / "go.mod").write_text("module example.org/m\n\ngo 1.21\n")
    (work / "m_test.go").write_text(
        'package m\n\nimport (\n\t"os"\n\t"testing"\n)\n\n'
        'func TestM(t *testing.T) { os.WriteFile("out", []byte(os.Getenv("HOME")), 0o644) }\n'
    )
    cached = subprocess.run(["go", "env", "GOCACHE"], stdout=subprocess.PIPE, check=True)
    box.rootless = True
    box.extra = (
        "mkdir t root/go ../go ../go.work;"
        " mount -t tmpfs -o noexec,nosuid,nodev,size=64m tmpfs t;"
        f" mount -t overlay -o lowerdir={cached.stdout.decode().strip()},"
        "upperdir=../go,workdir=../go.work overlay root/go;"
        " mount --rbind /proc proc"
    )
    box.variables = {**box.variables, "TMPDIR": "/t", "GOCACHE": "/root/go"}
    outcome = box.go(".").check()
    assert outcome.text.startswith("ok  \texample.org/m\t")
    assert outcome.errors == ""
    assert (work / "out").read_text() == "/root"


@pytest.mark.usefixtures("pair")
def test_a_user_without_a_name_or_home(box: Container, store: Path, tmp_path: Path) -> None:
    """Docker gives HOME=/ to a user that the image does not know (`-u 1234`)."""
    box.number = 1234
    subprocess.run(["cp", "-a", "--sparse=always", store / "cache", tmp_path], check=True)
    if os.geteuid() == 0:
        subprocess.run(
            ["chown", "-R", "1234:1234", tmp_path / "cache", tmp_path / "work"], check=True
        )
    box.volumes += [f"{tmp_path}/cache:/cache"]
    box.variables = {**box.variables, "HOME": "/"}
    outcome = box("-v", "exec", "sh", "-c", "id -u; id -g; echo >kept").check()
    assert outcome.text.split() == ["1234", "1234"]
    assert RESTORED in outcome.errors
    assert (tmp_path / "work/kept").exists()


@pytest.mark.parametrize(
    ("number", "home", "reason", "place"),
    [
        (0, "/root", "`/root` cannot be written", "/var/tmp/vimto-0"),
        (1234, "/", "`/` cannot be written", "/var/tmp/vimto-1234"),
        (1234, "/nonexistent", "`/` cannot be written", "/var/tmp/vimto-1234"),
    ],
)
def test_a_home_that_takes_no_cache(
    box: Container, number: int, home: str, reason: str, place: str
) -> None:
    box.number = number
    box.variables = {"HOME": home}
    box.extra = "mount --bind root root; mount -o remount,bind,ro root; chmod a-w ."
    outcome = box("kernel", "ls").check()
    assert f"{reason}; `{place}` is used instead" in outcome.errors


def test_no_home_at_all(box: Container) -> None:
    box.number = 1234
    box.variables = {"HOME": ""}
    outcome = box("kernel", "ls").check(125)
    assert "hint: set HOME, or name a directory with `-cache-dir`" in outcome.errors


@contextmanager
def up(box: Container, script: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a script in a machine, which is there once the context begins, and is ended with it."""
    with box.start("exec", "sh", "-c", f"echo up; {script}") as process:
        try:
            assert process.stdout and process.stdout.readline() == b"up\n", process.stderr
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("pair")
def test_process_1_passes_signals_on(
    box: Container, image: Path, store: Path, tmp_path: Path
) -> None:
    """What has no handler is ignored by process 1, and `docker stop` sends SIGTERM."""
    with up(box, "trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; done") as process:
        snapshots = store / "cache/snapshots"
        (key,) = (name for name in entries(snapshots) if is_held(snapshots / name))
        other = make_container(image, store, tmp_path / "work", "other")
        refused = other("kernel", "rm", f"snapshot:{key[:12]}").check(125)
        assert "is in use" in refused.errors, "a lock holds in every container"
        os.kill(process_one(process), signal.SIGTERM)
        outcome = end(process)
    assert (outcome.status, outcome.stdout) == (3, b"bye\n")
    with up(box, "exec sleep 1000") as process:
        os.kill(process_one(process), signal.SIGTERM)
        outcome = end(process)
    assert outcome.status == 128 + signal.SIGTERM


def test_a_kernel_without_9p(box: Container) -> None:
    """The virtiofsd in C mounts, which a container's root may not do."""
    box.volumes.append(f"{unpacked(CLOUD)}:/cloud:ro")
    outcome = box("-kernel", "/cloud", "exec", "true").check(125)
    assert "`/usr/lib/qemu/virtiofsd` may not mount anything here" in outcome.errors
    assert "kernels with 9p need none" in outcome.errors
