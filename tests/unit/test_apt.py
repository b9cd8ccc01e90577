"""`vimto.kernel.apt` against the real apt and an archive on disk."""

import hashlib
import math
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import kernel_parts as parts
import pytest

from vimto.errors import KernelError
from vimto.kernel import apt, boot, packages
from vimto.kernel.modules import read_module
from vimto.kernel.reference import AptKernel
from vimto.process import proc

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here")

META = AptKernel(package="linux-image-amd64")


class Archive:
    """An unsigned archive with kernels laid out as in Debian's 7.x."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: dict[str, list[str]] = {}

    def add_kernel(self, release: str, version: str, suite: str = "stable") -> None:
        modules = f"./usr/lib/modules/{release}"
        depends = ", ".join(f"linux-{part}-{release} (= {version})" for part in ("base", "binary"))
        self.add(suite, "linux-image-amd64", version, f"linux-image-{release} (= {version})")
        self.add(
            suite,
            f"linux-image-{release}",
            version,
            f"kmod, linux-base (>= 4), {depends}, linux-modules-{release} | x",
        )
        image = parts.make_bzimage(parts.make_vmlinux(), release=release)
        self.add(suite, f"linux-binary-{release}", version, "", {f"{modules}/vmlinuz": image})
        self.add(
            suite,
            f"linux-base-{release}",
            version,
            "",
            {f"{modules}/modules.builtin": b"kernel/virtio_net.ko\n", "./usr/share/doc/x": b""},
        )
        files = {
            f"./lib/modules/{release}/kernel/{name}.ko": parts.make_module(*needs)
            for name, needs in parts.NINE_P.items()
        }
        self.add(suite, f"linux-modules-{release}", version, "kmod", files)
        debug = {
            "./usr/share/doc/x": b"",
            f"./usr/lib/debug/boot/vmlinux-{release}": parts.make_vmlinux(debug=True),
            f"./usr/lib/debug/lib/modules/{release}/kernel/fs/9p/9p.ko": b"its debug information",
        }
        self.add(suite, f"linux-image-{release}-dbg", version, "", debug)
        self.publish(suite)

    def add(
        self,
        suite: str,
        name: str,
        version: str,
        depends: str,
        files: dict[str, bytes] | None = None,
    ) -> None:
        deb = parts.make_deb(list((files or {"./usr/share/doc/y": b""}).items()))
        path = self.root / "pool" / f"{name}_{version}_amd64.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(deb)
        entry = (
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: x\n"
            + (f"Depends: {depends}\n" if depends else "")
            + f"Filename: pool/{path.name}\nSize: {len(deb)}\n"
            f"SHA256: {hashlib.sha256(deb).hexdigest()}\nDescription: x\n"
        )
        self._entries.setdefault(suite, []).append(entry)

    def drop(self, suite: str, name: str) -> None:
        entries = self._entries[suite]
        self._entries[suite] = [each for each in entries if f"Package: {name}\n" not in each]
        self.publish(suite)

    def publish(self, suite: str) -> None:
        index = "\n".join(self._entries[suite]).encode()
        dist = self.root / "dists" / suite
        (dist / "main/binary-amd64").mkdir(parents=True, exist_ok=True)
        (dist / "main/binary-amd64/Packages").write_bytes(index)
        (dist / "Release").write_text(
            f"Suite: {suite}\nCodename: {suite}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
            "Architectures: amd64\nComponents: main\nSHA256:\n"
            f" {hashlib.sha256(index).hexdigest()} {len(index)} main/binary-amd64/Packages\n"
        )


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    archive = Archive(tmp_path / "archive")
    archive.add_kernel("7.1-made", "7.1-1")
    archive.add_kernel("8.0-made", "1:8.0~rc1-1", "unstable")
    listed = tmp_path / "x.list"
    listed.write_text(f"deb [arch=amd64 trusted=yes] file://{archive.root} stable main\n")
    monkeypatch.setattr(apt, "_source_files", lambda _: [listed])
    monkeypatch.setattr(apt, "_LISTS_FRESH", -1.0)
    return archive


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.usefixtures("archive")
def test_a_metapackage_leads_to_a_kernel_that_resolves(cache: Path) -> None:
    assert packages.find_package(META, cache=cache) is None
    found = apt.fetch_package(META, cache=cache)
    assert found == packages.UnpackedPackage(
        directory=cache / "apt/linux-image-7.1-made_7.1-1_amd64",
        package="linux-image-7.1-made",
        version="7.1-1",
    )
    assert sorted(path.name for path in found.directory.iterdir()) == ["usr"]
    assert sorted(path.name for path in (found.directory / "usr").iterdir()) == ["lib"]
    files = boot.resolve_kernel(found.directory, cache=cache)
    assert files.transport == "9p"
    assert files.release == "7.1-made"
    assert files.image_root == found.directory


@pytest.mark.usefixtures("archive")
def test_what_was_found_is_remembered_for_a_while(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = apt.fetch_package(META, cache=cache)
    monkeypatch.setattr(proc, "run", None)
    assert packages.find_package(META, cache=cache) == found
    assert apt.fetch_package(META, cache=cache) == found
    later = time.time() + packages.DAY + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert packages.find_package(META, cache=cache) is None
    assert packages.find_package(META, cache=cache, fresh=math.inf) == found


@pytest.mark.usefixtures("archive")
def test_what_is_looked_up_is_found_when_it_has_come_from_elsewhere(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does from a CI's cache, whose key has the version."""
    found = apt.look_up_package(META, cache=cache)
    assert found.directory == cache / "apt/linux-image-7.1-made_7.1-1_amd64"
    assert not found.directory.exists()
    elsewhere = apt.fetch_package(META, cache=tmp_path / "elsewhere")
    shutil.copytree(elsewhere.directory, found.directory)
    monkeypatch.setattr(proc, "run", None)
    assert apt.look_up_package(META, cache=cache) == found
    assert apt.fetch_package(META, cache=cache) == found


def test_a_new_version_is_noticed(archive: Archive, cache: Path) -> None:
    assert apt.fetch_package(META, cache=cache).version == "7.1-1"
    archive.add_kernel("7.2-made", "7.2-1")
    assert apt.fetch_package(META, cache=cache).version == "7.1-1"
    assert apt.fetch_package(META, cache=cache, fresh=-1).version == "7.2-1"
    pinned = AptKernel(package="linux-image-amd64", version="7.1-1")
    # The old metapackage leads to the old image by its name.
    assert apt.fetch_package(pinned, cache=cache).package == "linux-image-7.1-made"
    assert packages.find_package(pinned, cache=cache, fresh=-1) is not None


def test_what_is_pinned_stays_what_it_was(
    archive: Archive, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = apt.pin_package(META, cache=cache)
    assert not list((cache / "apt").glob("linux-*"))
    names = {f"linux-{part}-7.1-made" for part in ("image", "base", "binary", "modules")}
    assert {package.name for package in pinned.pinned} == names
    assert pinned.pinned[0].name == "linux-image-7.1-made"
    deb = archive.root / "pool/linux-image-7.1-made_7.1-1_amd64.deb"
    assert pinned.pinned[0].sha256 == hashlib.sha256(deb.read_bytes()).hexdigest()
    archive.add_kernel("7.2-made", "7.2-1")
    assert apt.pin_package(pinned, cache=cache) != pinned  # what the name means now
    found = apt.fetch_package(pinned, cache=cache)
    assert (found.package, found.version) == ("linux-image-7.1-made", "7.1-1")
    assert boot.resolve_kernel(found.directory, cache=cache).release == "7.1-made"
    assert apt.fetch_package(META, cache=cache).version == "7.2-1"
    # What is here is taken without a process, whatever name it was fetched by.
    monkeypatch.setattr(proc, "run", None)
    later = time.time() + packages.DAY + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert apt.fetch_package(pinned, cache=cache) == found
    assert apt.look_up_package(pinned, cache=cache) == found
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(found.directory, elsewhere / "apt" / found.directory.name)
    assert packages.find_package(pinned, cache=elsewhere) is not None


def test_what_the_archive_no_longer_has(archive: Archive, cache: Path) -> None:
    pinned = apt.pin_package(META, cache=cache)
    # Of all packages one has gone, and then the one with the image.
    for name in ("linux-modules-7.1-made", "linux-image-7.1-made"):
        archive.drop("stable", name)
        with pytest.raises(KernelError, match="no longer has all of `apt:linux-image-7") as caught:
            apt.fetch_package(pinned, cache=cache)
        assert "`vimto kernel lock -update`" in caught.value.hint
    # Where nobody knows what it has, that is what is said.
    shutil.rmtree(archive.root)
    shutil.rmtree(cache / "apt/state")
    with pytest.raises(KernelError, match="there is no package") as caught:
        apt.fetch_package(pinned, cache=cache)
    assert "is the network up" in caught.value.hint and "lock -update`" in caught.value.hint
    assert not list((cache / "apt").glob("linux-*"))


@pytest.mark.parametrize("fault", ["checksum", "left out", "one more"])
@pytest.mark.usefixtures("archive")
def test_what_was_not_pinned_is_not_unpacked(fault: str, cache: Path) -> None:
    pinned = apt.pin_package(META, cache=cache)
    image, *others = pinned.pinned
    wrong = {
        "checksum": (image._replace(sha256="0" * 64), *others),
        "left out": (image, *others[1:]),
        "one more": (image, *others, others[0]._replace(name="linux-image-x")),
    }[fault]
    with pytest.raises(KernelError, match="is not what was locked"):
        apt.fetch_package(pinned._replace(pinned=wrong), cache=cache)
    assert not list((cache / "apt").glob("linux-*"))


@pytest.mark.usefixtures("archive")
def test_another_suite(cache: Path) -> None:
    unstable = AptKernel(package="linux-image-amd64", release="unstable")
    found = apt.fetch_package(unstable, cache=cache)
    assert found.directory.name == "linux-image-8.0-made_1%3a8.0~rc1-1_amd64"
    assert apt.fetch_package(META, cache=cache).package == "linux-image-7.1-made"


def test_without_the_archive_what_is_there_serves_on(
    archive: Archive, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = apt.fetch_package(META, cache=cache)
    shutil.rmtree(archive.root)
    assert apt.fetch_package(META, cache=cache, fresh=-1) == found
    # apt 3 forgets its list of an archive whose directory has gone, apt 2 keeps it.
    told = ("could not all be brought up to date", "may have a newer version")
    err = capfd.readouterr().err
    assert any(words in err for words in told), err
    shutil.rmtree(cache / "apt/state")
    assert apt.fetch_package(META, cache=cache, fresh=-1) == found
    assert "may have a newer version" in capfd.readouterr().err


@pytest.mark.usefixtures("archive")
def test_of_the_debug_package_the_kernel_and_its_modules_are_kept(cache: Path) -> None:
    found = apt.fetch_package(META, cache=cache)
    assert packages.find_debug(found, cache=cache) is None
    root = cache / "apt/linux-image-7.1-made-dbg_7.1-1_amd64"
    root.mkdir()
    (root / "vmlinux-7.1-made").write_text("of an earlier version, which kept nothing else")
    assert packages.find_debug(found, cache=cache) == root
    assert apt.fetch_debug(found, META, cache=cache) == root
    assert packages.find_vmlinux(root).read_bytes() == parts.make_vmlinux(debug=True)
    vmlinux, module = sorted(path for path in root.rglob("usr/**/*") if path.is_file())
    assert vmlinux == packages.find_vmlinux(root)
    assert str(module).endswith("usr/lib/debug/lib/modules/7.1-made/kernel/fs/9p/9p.ko.zst")
    assert read_module(module) == b"its debug information"
    inode = vmlinux.stat().st_ino
    assert apt.fetch_debug(found, META, cache=cache) == root
    assert vmlinux.stat().st_ino == inode, "nothing is fetched twice"


@pytest.mark.usefixtures("archive")
def test_unknown_packages_and_suites(cache: Path) -> None:
    with pytest.raises(KernelError, match="no package `linux-image-x` in apt's sources"):
        apt.fetch_package(AptKernel(package="linux-image-x"), cache=cache)
    with pytest.raises(KernelError, match=r"no package `linux-image-amd64=9`"):
        apt.fetch_package(AptKernel(package="linux-image-amd64", version="9"), cache=cache)
    with pytest.raises(KernelError, match="suite `nosuch`") as caught:
        apt.fetch_package(AptKernel(package="linux-image-amd64", release="nosuch"), cache=cache)
    assert caught.value.lines
    assert "`nosuch` a suite" in caught.value.hint


def test_a_package_without_a_kernel(archive: Archive, cache: Path) -> None:
    archive.add("stable", "bash", "1", "")
    archive.publish("stable")
    with pytest.raises(KernelError, match="holds no kernel"):
        apt.fetch_package(AptKernel(package="bash"), cache=cache)
    assert [path.name for path in (cache / "apt").iterdir() if path.name[0] != "."] == ["state"]


def test_a_package_that_differs_from_its_index(archive: Archive, cache: Path) -> None:
    path = archive.root / "pool/linux-binary-7.1-made_7.1-1_amd64.deb"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(KernelError, match="cannot be downloaded"):
        apt.fetch_package(META, cache=cache)
    assert not (cache / "apt/linux-image-7.1-made_7.1-1_amd64").exists()


@pytest.mark.usefixtures("archive")
def test_many_at_once_fetch_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = proc.run
    commands: list[str] = []

    def spy(argv: Sequence[str], **options: object) -> proc.Result:
        commands.append(" ".join(argv[:3]))
        return run(argv, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(proc, "run", spy)
    found: list[packages.UnpackedPackage] = []
    threads = [
        threading.Thread(target=lambda: found.append(apt.fetch_package(META, cache=cache)))
        for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert len(set(found)) == 1
    assert commands.count("apt-get -q download") == 1


@pytest.mark.usefixtures("archive")
def test_without_apt(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelError, match="apt"):
        apt.fetch_package(META, cache=cache)


@pytest.mark.usefixtures("archive")
def test_the_machines_own_lists_are_left_alone(cache: Path) -> None:
    before = sorted(os.listdir("/var/lib/apt/lists"))
    apt.fetch_package(META, cache=cache)
    assert sorted(os.listdir("/var/lib/apt/lists")) == before


def test_a_full_disk_is_not_the_network_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = apt.Apt("", tmp_path)
    own.state.mkdir(parents=True)
    own.complaints = ("E: Failed to fetch: 404  Not Found",)
    assert "is the network up" in own._unknown("x").hint
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 20))
    assert own._unknown("x").hint == f"the disk that holds `{own.state}` is full"
