"""What a kernel's name means now, for every kind of name, and where nobody can be asked."""

from pathlib import Path

import pytest

from vimto.config import Config, load_config
from vimto.errors import ImageError, KernelError
from vimto.kernel import boot
from vimto.kernel.reference import (
    DirectoryKernel,
    FileKernel,
    HostKernel,
    LayoutReference,
    RegistryReference,
)
from vimto.oci import pull
from vimto.oci.store import Store, Tag
from vimto.plan.identity import identify_kernel

IMAGE = RegistryReference("registry.example", "kernels", "6.6")
DIGEST, OLDER = (f"sha256:{digit * 64}" for digit in "ab")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config({}, {"VIMTO_CACHE_DIR": str(tmp_path / "cache")}, tmp_path)


@pytest.mark.parametrize("place", ["boot/vmlinuz-6.6", "bzImage", "vmlinux"])
def test_a_kernel_on_this_host_is_its_content(config: Config, tmp_path: Path, place: str) -> None:
    image = tmp_path / "kernel" / place
    image.parent.mkdir(parents=True)
    image.write_bytes(b"one")
    directory = DirectoryKernel(tmp_path / "kernel")
    one = identify_kernel(FileKernel(image), config)
    assert identify_kernel(directory, config) == one
    image.write_bytes(b"two")
    assert identify_kernel(FileKernel(image), config) != one
    assert identify_kernel(directory, config) == identify_kernel(FileKernel(image), config)


def test_a_build_tree_is_the_image_that_was_built(config: Config, tmp_path: Path) -> None:
    for name in (".config", "Kbuild", "vmlinux"):
        (tmp_path / name).write_text(name)
    expected = identify_kernel(FileKernel(tmp_path / "vmlinux"), config)
    assert identify_kernel(DirectoryKernel(tmp_path), config) == expected


def test_a_directory_without_a_kernel_is_its_name(config: Config, tmp_path: Path) -> None:
    """A run will say what is wrong with it; it may be built in between."""
    assert identify_kernel(DirectoryKernel(tmp_path), config) == str(tmp_path)


def test_a_kernel_that_cannot_be_read(config: Config, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="cannot be read: No such file"):
        identify_kernel(FileKernel(tmp_path / "gone"), config)


def test_the_host_s_kernel(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(b"one")
    monkeypatch.setattr(boot, "find_host_kernel", lambda: image)
    assert identify_kernel(HostKernel(), config) == identify_kernel(FileKernel(image), config)
    monkeypatch.setattr(boot, "find_host_kernel", lambda: None)
    with pytest.raises(KernelError):
        identify_kernel(HostKernel(), config)


def test_an_image_on_disk_is_its_index(config: Config, tmp_path: Path) -> None:
    layout = LayoutReference("oci", tmp_path, "x")
    (tmp_path / "index.json").write_text("{}")
    one = identify_kernel(layout, config)
    (tmp_path / "index.json").write_text("{ }")
    assert one and identify_kernel(layout, config) not in (one, "")


def test_an_image_is_its_digest(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "look_up_image", lambda *_: DIGEST)
    assert identify_kernel(IMAGE, config) == DIGEST
    assert identify_kernel(IMAGE, config._replace(pull="never")) == str(IMAGE)


def test_a_registry_that_does_not_answer(
    config: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> str:
        raise ImageError("it is away")

    monkeypatch.setattr(pull, "look_up_image", fail)
    assert identify_kernel(IMAGE, config) == str(IMAGE)
    told = f"warning: what `{IMAGE}` means now is not known: it is away\n"
    assert capfd.readouterr().err == told
    tag = Tag(reference=str(IMAGE), digest=OLDER, top=OLDER, checked=1.0)
    Store(config.cache_dir).write_tag(IMAGE, tag)
    assert identify_kernel(IMAGE, config) == OLDER
    assert capfd.readouterr().err == ""
