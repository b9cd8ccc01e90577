"""From a kernel's name to what boots: the choices that need no kernel."""

import contextlib
import json
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from vimto.commands import gdb
from vimto.commands.kernel import _find_image
from vimto.config import Config, load_config
from vimto.errors import AgentError, ImageError, KernelError, VimtoError
from vimto.kernel import boot
from vimto.oci import pull
from vimto.plan import kernels, prepare
from vimto.plan.agent import source_digest, source_directory
from vimto.plan.kernels import default_package
from vimto.settings import parse_flags


@pytest.mark.parametrize(
    ("release", "package"),
    [
        ({"ID": "debian"}, "linux-image-amd64"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "linux-image-generic"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "linux-image-generic"),
        ({}, "linux-image-amd64"),
    ],
)
def test_each_distribution_has_a_kernel_of_its_own(
    monkeypatch: pytest.MonkeyPatch, release: dict[str, str], package: str
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert default_package() == package


def test_a_system_that_does_not_say_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, str]:
        raise FileNotFoundError("no os-release")

    monkeypatch.setattr(platform, "freedesktop_os_release", fail)
    assert default_package() == "linux-image-amd64"


def configured(directory: Path, *words: str) -> Config:
    flags, _ = parse_flags(["-cache-dir", str(directory / "cache"), *words])
    return load_config(flags, {}, directory)


def locate(config: Config, stack: contextlib.ExitStack) -> kernels.FoundKernel:
    return kernels.locate_kernel(config, kernels.wanted_kernel(config), stack)


@pytest.fixture
def no_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_arguments: object) -> None:
        raise ImageError("there is no such image")

    monkeypatch.setattr(pull, "fetch_image", fetch)


@pytest.mark.usefixtures("no_fetch")
def test_a_version_that_was_taken_for_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir()
    with contextlib.ExitStack() as stack:
        with pytest.raises(ImageError) as caught:
            locate(configured(tmp_path, "-kernel", "6.6"), stack)
        assert caught.value.hint.startswith("`6.6` was taken for an image's name; `:6.6` is a tag")
        with pytest.raises(ImageError) as caught:
            locate(configured(tmp_path, "-kernel", "a.b/c:6.6"), stack)
        assert caught.value.hint == ""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "layout").mkdir()
        with pytest.raises(ImageError) as caught:  # it says itself that it is an image
            locate(configured(tmp_path, "-kernel", "oci:layout"), stack)
        assert caught.value.hint == ""


def test_what_kept_a_kernel_from_being_fetched_stays_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = OSError(28, "No space left on device")

    def fetch(*_arguments: object) -> None:
        raise KernelError("the package cannot be unpacked") from reason

    monkeypatch.setattr(kernels, "_fetch", fetch)
    with contextlib.ExitStack() as stack, pytest.raises(KernelError, match="unpacked") as caught:
        locate(configured(tmp_path, "-kernel", "apt:linux-image-amd64"), stack)
    assert caught.value.__cause__ is reason
    with pytest.raises(KernelError, match="none is configured") as caught:
        _find_image(configured(tmp_path), [], ":6.6")
    assert caught.value.__cause__ is None


def test_the_host_has_no_kernel_and_no_other_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "host_kernels", lambda: iter(()))
    (tmp_path / "cache").mkdir()
    with contextlib.ExitStack() as stack, pytest.raises(KernelError, match="no kernel installed"):
        locate(configured(tmp_path, "-kernel", "host"), stack)


@pytest.mark.usefixtures("no_fetch")
def test_without_go_no_kernel_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    config = configured(tmp_path, "-kernel", "a.b/c:1")
    with contextlib.ExitStack() as stack, pytest.raises(AgentError, match="`go` is not installed"):
        kernels.resolve_kernel(config, kernels.wanted_kernel(config), stack)
    # A cache that a CI brought along may have a guest program.
    built = tmp_path / f"cache/agent/amd64-{source_digest(source_directory())}-x"
    built.parent.mkdir()
    built.write_bytes(b"")
    with contextlib.ExitStack() as stack, pytest.raises(ImageError, match="no such image"):
        kernels.resolve_kernel(config, kernels.wanted_kernel(config), stack)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-share", "nothing"], "nothing` cannot be shared: there is no such directory"),
        (["-share", "/proc"], "`/proc` cannot be shared: the guest has its own"),
        ([f"-share={n}" for n in range(29)], "29 directories are to be shared, 28 are the most"),
        (["-sysctl", "x"], "`x` is not a sysctl"),
        (["-user", "of-nobody"], "there is no user `of-nobody`"),
        (["-user", "4294967296"], "is not a valid user"),
        (["-kernel", "./nothing"], "the kernel `./nothing` does not exist"),
        (["-kernel", "reg.example/X"], "`X` cannot be part of a name"),
        (["-kernel", ":6.6"], "none is configured"),
    ],
)
def test_what_can_be_known_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    def fetch(*_arguments: object) -> None:
        raise AssertionError("a kernel was looked for")

    for number in range(29):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setattr(prepare, "resolve_kernel", fetch)
    monkeypatch.setattr(prepare, "probe_qemu", fetch)
    config = configured(tmp_path, *words)
    with pytest.raises(VimtoError) as caught, prepare.prepare(config):
        pass
    assert message in caught.value.message
    assert not config.cache_dir.exists()


def test_the_guest_has_a_modprobe_where_the_host_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_SYSTEM_PROGRAMS", (str(tmp_path),))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kernels._programs() == {"usr/sbin/modprobe": "/usr/lib/vimto/modprobe"}
    without = kernels._record(tmp_path, tmp_path)
    (tmp_path / "modprobe").touch()
    assert kernels._programs() == {}
    assert kernels._record(tmp_path, tmp_path) != without


def test_what_a_kernel_was_made_of_is_named_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that whoever prunes the cache knows when it was used: the modules' index, too."""
    cache = tmp_path / "cache"
    (cache / "vmlinux").mkdir(parents=True)
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(b"")
    index = cache / "modules/x"
    found = SimpleNamespace(
        kernel=kernel,
        release="",
        modules=None,
        layer={},
        image_root=None,
        transport="9p",
        description="",
        sources=(),
        entries=(index,),
    )
    monkeypatch.setattr("vimto.kernel.boot.resolve_kernel", lambda _place, cache: found)
    monkeypatch.setattr("vimto.plan.initramfs.build_initramfs", lambda *_parts, cache: kernel)
    monkeypatch.setattr(kernels, "_guest_program", lambda _cache: SimpleNamespace(path="guest"))
    config = configured(tmp_path, "-kernel", str(kernel))
    with contextlib.ExitStack() as stack:
        kernels.resolve_kernel(config, kernels.wanted_kernel(config), stack)
    (remembered,) = cache.glob("local/*/resolved/*.json")
    value = json.loads(remembered.read_text())
    assert str(index) in value["entries"]
    guest = source_directory()
    assert {str(guest / "main.go"), str(guest / "internal/run/session.go")} <= set(value["sources"])


@pytest.mark.parametrize("words", [["-vmlinux", "FILE", "-listen", "127.0.0.1:0"], []])
def test_gdb_s_own_file_is_looked_at_before_a_kernel_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    def locate(*_arguments: object) -> None:
        raise AssertionError("a kernel was looked for")

    monkeypatch.setattr(gdb, "locate_kernel", locate)
    (tmp_path / "bzImage").write_bytes(b"MZ" * 1024)
    for name, said in (("bzImage", "is not an ELF file"), ("nothing", "cannot be read: No such")):
        file = str(tmp_path / name)
        config = configured(tmp_path, *([] if words else ["-vmlinux", file]))
        with pytest.raises(KernelError, match=said):
            if words:
                gdb.run_gdb(config, [file if word == "FILE" else word for word in words])
            else:
                with gdb.wait_for_gdb(config):
                    pass


@pytest.fixture
def resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A kernel `bzImage` whose resolving is counted: each gives another initramfs."""
    (tmp_path / "bzImage").write_text("kernel")
    (tmp_path / "config").write_text("y")
    count: list[int] = []

    def resolve(place: Path, cache: Path) -> tuple[kernels.BootParts, list[str], list[str]]:
        count.append(1)
        initrd = cache / f"initramfs/{len(count)}.cpio"
        initrd.parent.mkdir(parents=True, exist_ok=True)
        initrd.touch()
        parts = kernels.BootParts(str(place), str(initrd), "6.1", "", "9p", "Linux 6.1")
        return parts, [str(place), str(tmp_path / "config"), str(initrd)], []

    monkeypatch.setattr(kernels, "_resolve", resolve)
    return count


def test_what_was_resolved_is_believed_while_nothing_changes(
    tmp_path: Path, resolved: list[int]
) -> None:
    config = configured(tmp_path, "-kernel", "./bzImage")
    record = kernels._record(config.cache_dir, tmp_path / "bzImage")

    def resolve() -> kernels.BootParts:
        with contextlib.ExitStack() as stack:
            return kernels.resolve_kernel(config, kernels.wanted_kernel(config), stack)

    first = resolve()
    assert resolve() == first and len(resolved) == 1
    (tmp_path / "config").write_text("n: another content, and another size")
    second = resolve()
    assert second.initrd != first.initrd and len(resolved) == 2
    assert resolve() == second
    Path(second.initrd).unlink()  # somebody pruned the cache
    third = resolve()
    assert Path(third.initrd).exists() and len(resolved) == 3
    (tmp_path / "bzImage").unlink()
    (tmp_path / "bzImage").write_text("kernel")  # the same bytes in another file
    assert resolve() != third and len(resolved) == 4
    for nonsense in ("", "{}", "[]", record.read_text()[:-5], '{"sources": [], "signature": 1}'):
        record.write_text(nonsense)
        resolve()
    assert len(resolved) == 9


def test_without_a_place_to_remember_it_is_resolved_each_time(
    tmp_path: Path, resolved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    config = configured(tmp_path, "-kernel", "./bzImage")
    monkeypatch.setattr(kernels.entry, "new_file", full)
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            kernels.resolve_kernel(config, kernels.wanted_kernel(config), stack)
    assert len(resolved) == 2
