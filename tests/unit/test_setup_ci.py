"""`vimto setup-ci`, on hosts made of a few scripts: what it changes, and what it tells."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflows import read_outputs
from vimto.cache.place import KINDS, travelling
from vimto.commands import setup_ci
from vimto.config import Config, load_config
from vimto.errors import ConfigError, KernelError, UsageError
from vimto.kernel import apt
from vimto.kernel.packages import UnpackedPackage
from vimto.kernel.reference import AptKernel, PinnedPackage
from vimto.plan import identity
from vimto.qemu import probe
from vimto.qemu.probe import Obstacle
from vimto.settings import SETTINGS

QEMU = "echo QEMU emulator version 7.2.22"
LISTED = UnpackedPackage(Path("/c/apt/linux-image-6.6_6.6-1_amd64"), "linux-image-6.6", "6.6-1")
NO_RIGHTS = Obstacle("this user may not open /dev/kvm", rights=True)
CHMOD = "chmod 0666 /dev/kvm"


class Host:
    """A host whose PATH has the programs that are added; what they are called with is noted."""

    def __init__(self, root: Path) -> None:
        self.programs, self.log = root / "bin", root / "log"
        self.programs.mkdir()
        self.log.touch()

    def add(self, name: str, script: str = "") -> None:
        path = self.programs / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.log}\n{script}\n')
        path.chmod(0o755)

    def add_apt(self, end: str = "") -> None:
        """Add an apt-get that installs QEMU, or ends with what `end` says."""
        made = f"{self.programs}/qemu-system-x86_64"
        install = f"printf '#!/bin/sh\\n{QEMU}\\n' >{made}; /bin/chmod +x {made}"
        self.add("apt-get", end or f'case "$*" in *install*) {install};; esac')

    @property
    def called(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if not line.startswith("go ")]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with QEMU and go alone, and without KVM."""
    made = Host(tmp_path)
    made.add("qemu-system-x86_64", QEMU)
    made.add("go", "echo go version go1.25.1 linux/amd64")
    for name in ("env", "tee"):  # as on any host
        (made.programs / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setattr(setup_ci.os, "geteuid", lambda: 0)  # whoever runs the tests
    monkeypatch.setenv("PATH", str(made.programs))
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    monkeypatch.setattr(setup_ci, "_RULES", str(tmp_path / "rules.d"))
    monkeypatch.setattr(probe, "find_obstacle", lambda *_: Obstacle("there is no /dev/kvm"))
    monkeypatch.setattr(apt, "look_up_package", lambda *_args, **_options: LISTED)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def config(tmp_path: Path, host: Host) -> Config:
    flags = {"kernel": "apt:linux-image-amd64"}
    return load_config(flags, {"VIMTO_CACHE_DIR": str(tmp_path / "cache")}, tmp_path)


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Callable[[], tuple[dict[str, list[str]], str]]:
    """Return what was told since: the outputs by name, and stderr."""

    def read() -> tuple[dict[str, list[str]], str]:
        out, err = capfd.readouterr()
        found: dict[str, list[str]] = {}
        for line in out.splitlines():
            name, equals, value = line.partition("=")
            assert equals
            found.setdefault(name, []).append(value)
        return found, err

    return read


Told = Callable[[], tuple[dict[str, list[str]], str]]


def test_a_host_that_emulates(config: Config, told: Told) -> None:
    assert setup_ci.run(config, []) == 0
    found, err = told()
    assert list(found) == ["key", "restore-keys", "path", "cache-dir", "accelerator", "snapshots"]
    assert (found["accelerator"], found["snapshots"]) == (["tcg"], ["true"])
    assert found["path"] == travelling(config.cache_dir, snapshots=True)
    (key,) = found["key"]
    assert re.fullmatch(r"vimto-[\w.+]+-x86_64-tcg(-[0-9a-f]{12}){3}", key)
    first, second = found["restore-keys"]
    assert key.startswith(first) and first.startswith(second) and second.endswith("-")
    assert err.splitlines()[0].startswith("vimto: QEMU 7.2.22 is here: /")
    assert err.endswith("which is ten times slower: there is no /dev/kvm\n")


def test_under_kvm_no_snapshots_are_kept(
    config: Config, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "find_obstacle", lambda *_: None)
    assert setup_ci.run(config, []) == 0
    found, err = told()
    assert (found["accelerator"], found["snapshots"]) == (["kvm"], ["false"])
    assert str(config.cache_dir / "snapshots") not in found["path"]
    assert err.splitlines()[-1] == "vimto: machines run under KVM"


def test_what_is_kept_are_entries_alone(tmp_path: Path) -> None:
    """Not what is true on one host only, nor apt's lists, nor what a tag meant some time ago."""
    for name in (
        *("agent/amd64-1-2", "vmlinux/1", "initramfs/2", "snapshots/3/ram", "modules/4/x"),
        *("apt/linux-image-6.1_6.1-1_amd64/boot/vmlinuz", "apt/linux-image-6.1-dbg_6.1_amd64/v"),
        *("apt/state/own/lists/x", "apt/index/x.json", "images/tags/x.json", "images/work/y"),
        *(f"images/{'0a' * 32}/root/x", "local/1/digests", "local/1/resolved/x.json"),
        *("gdb-index/5", "links/8", "qemus/6/x", "builtin/7"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    kept = {
        str(path.relative_to(tmp_path))
        for pattern in travelling(tmp_path, snapshots=True)
        for path in tmp_path.glob(str(Path(pattern).relative_to(tmp_path)))
    }
    assert kept == {
        *(set(KINDS) - {"apt", "apt/state", "images"}),
        *("apt/linux-image-6.1_6.1-1_amd64", "apt/linux-image-6.1-dbg_6.1_amd64"),
        f"images/{'0a' * 32}",
    }


@pytest.mark.parametrize("apply", [False, True])
def test_qemu_that_is_missing(host: Host, config: Config, told: Told, apply: bool) -> None:
    (host.programs / "qemu-system-x86_64").unlink()
    host.add_apt()
    assert setup_ci.run(config, ["-apply"] if apply else []) == (0 if apply else 1)
    found, err = told()
    commands = ["apt-get update -q", "apt-get -o DPkg::Lock::Timeout=300 install -y -q"]
    commands[1] += " --no-install-recommends qemu-system-x86"
    if apply:
        assert host.called == commands
        assert found["key"] and "QEMU 7.2.22 is here" in err
    else:
        assert host.called == [] and found == {}
        lines = err.splitlines()
        assert lines[1] == f"vimto: `-apply` would run: {commands[0]}"
        assert lines[2].endswith(commands[1])


def test_an_apt_that_fails(host: Host, config: Config, told: Told) -> None:
    (host.programs / "qemu-system-x86_64").unlink()
    host.add_apt("echo E: no network >&2; exit 100")
    assert setup_ci.run(config, ["--apply"]) == 1
    found, err = told()
    assert found == {} and host.called == ["apt-get update -q"]
    assert "warning: `" in err and "failed with status 100\n  E: no network" in err


def test_no_qemu_where_there_is_no_apt(host: Host, config: Config, told: Told) -> None:
    (host.programs / "qemu-system-x86_64").unlink()
    assert setup_ci.run(config, ["-apply"]) == 1
    found, err = told()
    assert found == {}
    assert err.startswith("error: `qemu-system-x86_64` is not installed or not on PATH\n")
    assert "hint: there is no apt here; install QEMU" in err


def test_a_configured_qemu_is_not_installed(host: Host, config: Config, told: Told) -> None:
    host.add_apt()
    assert setup_ci.run(config._replace(qemu="qemu-of-mine"), ["-apply"]) == 1
    assert host.called == []
    assert told()[1].startswith("error: `qemu-of-mine` is not installed")


def test_a_qemu_that_is_too_old(host: Host, config: Config, told: Told) -> None:
    host.add("qemu-system-x86_64", "echo QEMU emulator version 5.2.0")
    assert setup_ci.run(config, []) == 1
    assert told()[1].startswith("error: QEMU 5.2.0 is too old\n")


class Device:
    """A /dev/kvm with obstacles, each of which a command removes."""

    def __init__(self, host: Host, *obstacles: tuple[Obstacle, str]) -> None:
        self._host, self._obstacles = host, obstacles

    def __call__(self, *_: str) -> Obstacle | None:
        called = self._host.called
        return next(
            (obstacle for obstacle, command in self._obstacles if command not in called), None
        )


@pytest.fixture
def locked(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host whose /dev/kvm chmod(1) opens."""
    host.add("chmod")
    monkeypatch.setattr(probe, "find_obstacle", Device(host, (NO_RIGHTS, CHMOD)))
    return host


def test_rights_are_not_taken_unasked(locked: Host, config: Config, told: Told) -> None:
    assert setup_ci.run(config, []) == 0
    found, err = told()
    assert locked.called[:1] == ["qemu-system-x86_64 --version"] and CHMOD not in locked.called
    assert found["accelerator"] == ["tcg"]
    assert f"vimto: `-apply` would run: {CHMOD}\n" in err


def test_root_takes_rights(locked: Host, config: Config, told: Told) -> None:
    assert setup_ci.run(config, ["-apply"]) == 0
    found, err = told()
    assert locked.called[1:] == [CHMOD]
    assert found["accelerator"] == ["kvm"]
    assert f"vimto: running: {CHMOD}\nvimto: machines run under KVM\n" in err


def test_with_udev_they_stay(locked: Host, config: Config, told: Told, tmp_path: Path) -> None:
    locked.add("udevadm")
    (tmp_path / "rules.d").mkdir()
    assert setup_ci.run(config, ["-apply"]) == 0
    assert locked.called[1:] == ["udevadm control --reload-rules", CHMOD]
    (rule,) = (tmp_path / "rules.d").iterdir()
    assert rule.read_text() == setup_ci._RULE
    assert 'running: echo \'KERNEL=="kvm", MODE="0666"' in told()[1]


def test_sudo_takes_them_for_others(
    locked: Host, config: Config, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_ci.os, "geteuid", lambda: 1001)
    locked.add("sudo", 'shift; "$@"')
    assert setup_ci.run(config, []) == 0
    assert f"would run: sudo -n {CHMOD}\n" in told()[1]
    assert setup_ci.run(config, ["-apply"]) == 0
    assert locked.called[-2:] == [f"sudo -n {CHMOD}", CHMOD]
    assert told()[0]["accelerator"] == ["kvm"]


@pytest.mark.parametrize(
    ("sudo", "words"),
    [
        ("", f"warning: not root, and without sudo: this was not run: {CHMOD}"),
        ("echo sudo: a password is required >&2; exit 1", "\n  sudo: a password is required"),
    ],
)
def test_without_rights_to_take_rights_it_emulates(
    locked: Host,
    config: Config,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    sudo: str,
    words: str,
) -> None:
    monkeypatch.setattr(setup_ci.os, "geteuid", lambda: 1001)
    if sudo:
        locked.add("sudo", sudo)
    assert setup_ci.run(config, ["-apply"]) == 0
    found, err = told()
    assert words in err
    assert found["accelerator"] == ["tcg"]
    assert err.splitlines()[-1].endswith("slower: this user may not open /dev/kvm")


def test_a_module_is_loaded_and_then_opened(
    host: Host, config: Config, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add("modprobe")
    host.add("chmod")
    missing = Obstacle("/dev/kvm cannot be opened", module="kvm_amd")
    obstacles = ((missing, "modprobe kvm_amd"), (NO_RIGHTS, CHMOD))
    monkeypatch.setattr(probe, "find_obstacle", Device(host, *obstacles))
    assert setup_ci.run(config, ["-apply"]) == 0
    assert host.called[1:] == ["modprobe kvm_amd", CHMOD]
    assert told()[0]["accelerator"] == ["kvm"]


def test_what_does_not_help_is_not_repeated_for_ever(
    host: Host, config: Config, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's root has the file's mode, but not the device."""
    host.add("chmod")
    monkeypatch.setattr(probe, "find_obstacle", lambda *_: NO_RIGHTS)
    assert setup_ci.run(config, ["-apply"]) == 0
    assert host.called[1:] == [CHMOD, CHMOD]
    assert told()[0]["accelerator"] == ["tcg"]


def test_emulation_that_is_configured_needs_no_rights(
    locked: Host, config: Config, told: Told
) -> None:
    assert setup_ci.run(config._replace(accel="tcg"), ["-apply"]) == 0
    assert CHMOD not in locked.called
    assert told()[1].endswith("slower: `accel = tcg` is configured\n")


def test_a_github_runner_gets_the_same(
    config: Config, told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "output"
    file.write_text("x<<EOF\n1\nEOF\n")
    monkeypatch.setenv("GITHUB_OUTPUT", str(file))
    assert setup_ci.run(config, []) == 0
    assert read_outputs(file.read_text()) == {"x": ["1"], **told()[0]}


def test_outputs_that_cannot_be_written(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        setup_ci.run(config, [])
    reason = os.strerror(errno.EISDIR)
    assert caught.value.message == f"`$GITHUB_OUTPUT` cannot be written: {reason}"


def test_a_newline_makes_no_second_output(config: Config) -> None:
    with pytest.raises(ConfigError, match="`path` cannot be told, for it holds a newline"):
        setup_ci.run(config._replace(cache_dir=Path("/a\nkey=b")), [])


@pytest.mark.parametrize("words", [["-x"], ["-apply", "--y"], ["-apply", "-apply"]])
def test_words_that_it_does_not_know(config: Config, words: list[str]) -> None:
    with pytest.raises(UsageError, match=f"does not know `{words[-1]}`"):
        setup_ci.run(config, words)


def test_a_cache_that_a_machine_may_write_to_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(ConfigError, match="where the machine may write"):
        setup_ci.run(config, [])


def keys_of(config: Config, told: Told, *words: str) -> list[str]:
    assert setup_ci.run(config, list(words)) == 0
    found, _ = told()
    return [*found["key"], *found["restore-keys"]]


def kept_of(before: list[str], after: list[str]) -> int:
    """Return how many of the keys' beginnings are the same, the longest first to differ."""
    return sum(old == new for old, new in zip(before, after, strict=True))


def test_the_key_changes_with_what_counts(
    host: Host, config: Config, told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = keys_of(config, told)
    assert keys_of(config, told) == first
    other = config._replace(timeout=9.0, setup=(("true",),), cache_dir=tmp_path / "elsewhere")
    assert keys_of(other, told) == first
    # A new version of the package: the rest of the old cache still serves.
    newer = LISTED._replace(directory=Path("/c/apt/linux-image-6.6_6.6-2_amd64"))
    monkeypatch.setattr(apt, "look_up_package", lambda *_args, **_options: newer)
    assert kept_of(first, keys_of(config, told)) == 2
    monkeypatch.setattr(apt, "look_up_package", lambda *_args, **_options: LISTED)
    # Another QEMU, processor or Go: so do kernels.
    for name, script in (("qemu-system-x86_64", f"{QEMU} # x"), ("go", "echo go version go1.99")):
        before = (host.programs / name).read_text()
        host.add(name, script)
        assert kept_of(first, keys_of(config, told)) == 1
        (host.programs / name).write_text(before)
    assert keys_of(config, told) == first
    monkeypatch.setattr(probe, "identify_host_cpu", lambda **_: "another")
    assert kept_of(first, keys_of(config, told)) == 1


def test_a_lock_is_believed_and_its_renewal_changes_the_end_of_the_key(
    config: Config, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "look_up_package", None)  # nobody is asked
    keys = []
    for version in ("6.6-1", "6.6-2", "6.6-2"):
        pin = PinnedPackage("linux-image-6.6", version, "amd64", "0" * 64)
        locked = AptKernel("linux-image-amd64", pinned=(pin,))
        monkeypatch.setattr(setup_ci, "wanted_kernel", lambda _, locked=locked: locked)
        keys.append(keys_of(config, told))
    assert kept_of(keys[0], keys[1]) == 2 and keys[1] == keys[2]


def test_each_setting_that_does_not_count_is_one() -> None:
    assert set(setup_ci._ELSEWHERE.split()) <= {row.key for row in SETTINGS}


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": 4096},
        {"smp": 7},
        {"net": "user"},
        {"kernel_args": ("quiet",)},
        {"snapshot": False},
        {"kernel": "apt:linux-image-rt-amd64"},
    ],
)
def test_another_machine_has_another_cache(
    config: Config, told: Told, changes: dict[str, object]
) -> None:
    first = keys_of(config, told)
    assert kept_of(first, keys_of(config._replace(**changes), told)) == 0  # type: ignore[arg-type]


def test_under_kvm_neither_processor_nor_qemu_count(
    host: Host, config: Config, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "find_obstacle", lambda *_: None)
    first = keys_of(config, told)
    host.add("qemu-system-x86_64", f"{QEMU} # x")
    monkeypatch.setattr(probe, "identify_host_cpu", lambda **_: "another")
    assert keys_of(config, told) == first


def test_kernels_are_named_one_by_one(config: Config, told: Told, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(b"one")
    first = keys_of(config, told, "apt:linux-image-amd64", "./bzImage")
    assert keys_of(config, told, "-apply", "apt:linux-image-amd64", "./bzImage") == first
    assert kept_of(first, keys_of(config, told)) == 0
    image.write_bytes(b"two")
    assert kept_of(first, keys_of(config, told, "apt:linux-image-amd64", "./bzImage")) == 2
    with pytest.raises(KernelError, match="does not exist"):
        setup_ci.run(config, ["./none"])


def test_without_go_the_key_is_weaker(host: Host, config: Config, told: Told) -> None:
    (host.programs / "go").unlink()
    assert setup_ci.run(config, []) == 0
    found, err = told()
    assert found["key"]
    assert "warning: `go` is not installed" in err
    assert "install it first, the cache's key depends on its version" in err


def test_an_archive_that_does_not_answer(
    config: Config, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> UnpackedPackage:
        raise KernelError("no network")

    monkeypatch.setattr(apt, "look_up_package", fail)
    assert setup_ci.run(config, []) == 0
    found, err = told()
    assert found["key"]
    assert "warning: what `apt:linux-image-amd64` means now is not known: no network\n" in err
    # What was known once is better than nothing.
    monkeypatch.setattr(
        identity, "find_package", lambda *_args, fresh=1.0, **_: LISTED if fresh > 1e9 else None
    )
    assert identity.identify_kernel(AptKernel("linux-image-amd64"), config) == LISTED.directory.name
