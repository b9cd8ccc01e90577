import os
import platform
import shutil
from pathlib import Path

import kernel_parts as parts
import pytest

from vimto.errors import KernelError
from vimto.kernel import boot

RELEASE = "6.7.8-made"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree as a distribution's package has it."""
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    (root / f"boot/vmlinuz-{RELEASE}").write_bytes(parts.make_bzimage(parts.make_vmlinux()))
    (root / f"boot/config-{RELEASE}").write_text("CONFIG_9P_FS=m\n# CONFIG_X is not set\n")
    parts.fill_modules(root / "lib/modules" / RELEASE, parts.NINE_P)
    return root


def names(files: boot.KernelFiles) -> list[str]:
    return [module.name for module in files.modules.modules]


def test_a_package(root: Path, cache: Path) -> None:
    files = boot.resolve_kernel(root, cache=cache)
    assert files.kernel.read_bytes() == parts.make_vmlinux()
    assert files.kernel.is_relative_to(cache)
    assert files.pvh
    assert files.release == RELEASE
    assert files.transport == "9p"
    assert files.image_root == root
    assert files.vmlinux is None
    assert files.config == {"CONFIG_9P_FS": "m"}
    assert names(files).index("9pnet") < names(files).index("9p")
    assert files.modules.missing == ()
    assert root / f"boot/config-{RELEASE}" in files.sources
    assert RELEASE in files.description


def test_a_file_finds_the_modules_of_its_tree(root: Path, cache: Path) -> None:
    files = boot.resolve_kernel(root / f"boot/vmlinuz-{RELEASE}", cache=cache)
    assert names(files)
    assert files.image_root == root


def test_the_image_may_lie_among_its_modules(root: Path, cache: Path) -> None:
    (root / "usr").mkdir()
    (root / "lib").rename(root / "usr/lib")
    image = root / f"usr/lib/modules/{RELEASE}/vmlinuz"
    (root / f"boot/vmlinuz-{RELEASE}").rename(image)
    for files in (
        boot.resolve_kernel(root, cache=cache),
        boot.resolve_kernel(image, cache=cache),
    ):
        assert names(files)
        assert files.image_root == root
    files = boot.resolve_kernel(image.parent, cache=cache)
    assert names(files)
    assert files.image_root is None


def test_extraction_happens_once(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = boot.resolve_kernel(root, cache=cache)
    monkeypatch.setattr(boot.bzimage, "extract_vmlinux", None)
    assert boot.resolve_kernel(root, cache=cache) == first


def test_the_same_kernel_is_not_extracted_again(
    root: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = boot.resolve_kernel(root, cache=cache)
    monkeypatch.setattr(boot.bzimage, "extract_vmlinux", None)
    (root / f"boot/vmlinuz-{RELEASE}").touch()
    assert boot.resolve_kernel(root, cache=cache) == first
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    assert boot.resolve_kernel(tmp_path / "copy", cache=cache).kernel == first.kernel


def test_a_changed_kernel_is_extracted_again(root: Path, cache: Path) -> None:
    first = boot.resolve_kernel(root, cache=cache)
    other = parts.make_vmlinux(banner=parts.BANNER + b"another")
    (root / f"boot/vmlinuz-{RELEASE}").write_bytes(parts.make_bzimage(other, how="xz"))
    second = boot.resolve_kernel(root, cache=cache)
    assert second.kernel != first.kernel
    assert second.kernel.read_bytes() == other


def test_vmlinux_wins_and_is_stripped(root: Path, cache: Path) -> None:
    vmlinux = root / "boot/vmlinux"
    vmlinux.write_bytes(parts.make_vmlinux(debug=True))
    (root / "boot/vmlinuz").symlink_to(f"/boot/vmlinuz-{RELEASE}")
    files = boot.resolve_kernel(root, cache=cache)
    assert files.vmlinux == vmlinux
    assert f"`{vmlinux}`" in files.description
    assert files.kernel.is_relative_to(cache)
    assert files.kernel.stat().st_size < 4096
    assert files.pvh
    vmlinux.unlink()
    files = boot.resolve_kernel(root, cache=cache)
    assert f"vmlinuz-{RELEASE}" in files.description


def test_a_small_vmlinux_is_booted_as_it_is(root: Path, cache: Path) -> None:
    (root / "boot/vmlinux").write_bytes(parts.make_vmlinux())
    assert boot.resolve_kernel(root, cache=cache).kernel == root / "boot/vmlinux"


def put_on_shelf(root: Path, name: str, release: str) -> Path:
    """Add a kernel as the images of cilium/little-vm-helper hold it."""
    place = root / "data/kernels" / name
    (place / "boot").mkdir(parents=True)
    image = parts.make_bzimage(parts.make_vmlinux(), release=release)
    (place / f"boot/vmlinuz-{release}").write_bytes(image)
    parts.fill_modules(place / "lib/modules" / release, parts.NINE_P)
    return place


def test_the_one_kernel_below_data_kernels(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "image"
    place = put_on_shelf(root, "bpf-next", "6.18.0-rc4-made")
    (root / "data/kernels/notes.txt").write_text("no kernel")
    files = boot.resolve_kernel(root, cache=cache)
    assert files.release == "6.18.0-rc4-made"
    assert files.image_root == place
    assert "9p" in names(files)
    assert root / "data/kernels" in files.sources, "another one there would be noticed"
    file = boot.resolve_kernel(next(place.glob("boot/vmlinuz-*")), cache=cache)
    assert (file.release, file.image_root) == (files.release, place)


def test_of_several_below_data_kernels_one_must_be_named(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "an image"
    for name in ("5.10", "bpf-next", "6.6"):
        place = put_on_shelf(root, name, "6.6.1-made")
    with pytest.raises(
        KernelError, match=r"there are 3 kernels in .*: bpf-next, 5\.10, 6\.6"
    ) as caught:
        boot.resolve_kernel(root, cache=cache)
    assert f"-kernel '{root}/data/kernels/" in caught.value.hint
    assert boot.resolve_kernel(place, cache=cache).image_root == place


def test_the_newest_kernel_wins(root: Path, cache: Path) -> None:
    for release in ("6.7.10-made", "6.7.9-made"):
        image = parts.make_bzimage(parts.make_vmlinux(), release=release)
        (root / f"boot/vmlinuz-{release}").write_bytes(image)
        parts.fill_modules(root / "lib/modules" / release, parts.NINE_P)
    assert boot.resolve_kernel(root, cache=cache).release == "6.7.10-made"


def test_without_pvh_the_bzimage_is_booted(root: Path, cache: Path) -> None:
    image = root / f"boot/vmlinuz-{RELEASE}"
    image.write_bytes(parts.make_bzimage(parts.make_vmlinux(pvh=False)))
    files = boot.resolve_kernel(root, cache=cache)
    assert (files.kernel, files.pvh) == (image, False)
    image.write_bytes(parts.wrap_payload(b"\x89LZO" + b"x" * 99))
    files = boot.resolve_kernel(root, cache=cache)
    assert (files.kernel, files.pvh) == (image, False)


def test_an_elf_without_pvh_is_refused(root: Path, cache: Path) -> None:
    (root / "boot/vmlinux").write_bytes(parts.make_vmlinux(pvh=False))
    with pytest.raises(KernelError, match="CONFIG_PVH"):
        boot.resolve_kernel(root, cache=cache)


def test_a_link_does_not_lead_to_the_hosts_kernel(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.write_bytes(parts.make_bzimage(parts.make_vmlinux()))
    (root / "boot/vmlinuz").symlink_to(outside)
    with pytest.raises(KernelError, match="no kernel"):
        boot.resolve_kernel(root, cache=cache)


def test_a_bare_file_counts_as_having_all_built_in(tmp_path: Path, cache: Path) -> None:
    image = tmp_path / "somewhere/bzImage"
    image.parent.mkdir()
    image.write_bytes(parts.make_bzimage(parts.make_vmlinux()))
    files = boot.resolve_kernel(image, cache=cache)
    assert files.modules.modules == ()
    assert "9p" in files.modules.builtin
    assert files.image_root is None
    assert files.transport == "9p"


def test_unless_its_own_configuration_says_otherwise(tmp_path: Path, cache: Path) -> None:
    image = tmp_path / "bzImage"
    have = ["VIRTIO_PCI", "VIRTIO_CONSOLE", "OVERLAY_FS", "FUSE_FS", "VIRTIO_FS"]
    config = "".join(f"CONFIG_{name}=y\n" for name in have) + "CONFIG_9P_FS=m\n"
    image.write_bytes(parts.make_bzimage(parts.make_vmlinux(config=config)))
    files = boot.resolve_kernel(image, cache=cache)
    assert files.transport == "virtiofs"
    assert "virtio_rng" in files.modules.missing
    assert files.config["CONFIG_9P_FS"] == "m"
    config = config.replace("CONFIG_VIRTIO_CONSOLE=y\n", "")
    image.write_bytes(parts.make_bzimage(parts.make_vmlinux(config=config)))
    with pytest.raises(KernelError, match="lacks CONFIG_VIRTIO_CONSOLE"):
        boot.resolve_kernel(image, cache=cache)


def test_virtiofs_serves_where_9p_is_missing(root: Path, cache: Path) -> None:
    modules = root / "lib/modules" / RELEASE
    for path in modules.glob("kernel/9p*"):
        path.unlink()
    (modules / "kernel/fuse.ko").unlink()
    (modules / "modules.builtin").write_text("kernel/fs/fuse/fuse.ko\n")
    (modules / "kernel/virtiofs.ko").write_bytes(parts.make_module())
    (root / f"boot/config-{RELEASE}").unlink()
    files = boot.resolve_kernel(root, cache=cache)
    assert files.transport == "virtiofs"
    assert "fuse" in files.modules.builtin
    assert "virtiofs" in names(files)


def test_neither_9p_nor_virtiofs_is_an_error(root: Path, cache: Path) -> None:
    for path in (root / "lib/modules" / RELEASE).glob("kernel/9p*"):
        path.unlink()
    with pytest.raises(KernelError, match="neither 9p nor virtiofs") as caught:
        boot.resolve_kernel(root, cache=cache)
    assert "CONFIG_NET_9P_VIRTIO" in caught.value.hint


def test_a_module_whose_dependency_is_missing(root: Path, cache: Path) -> None:
    (root / "lib/modules" / RELEASE / "kernel/9pnet.ko").unlink()
    with pytest.raises(KernelError, match="9pnet"):
        boot.resolve_kernel(root, cache=cache)


def test_a_directory_without_a_kernel(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(KernelError, match="no kernel in") as caught:
        boot.resolve_kernel(tmp_path, cache=cache)
    assert "boot/vmlinuz" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + b"\0" * 99])
def test_a_file_that_is_no_kernel(tmp_path: Path, cache: Path, content: bytes) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(content)
    with pytest.raises(KernelError, match="neither"):
        boot.resolve_kernel(path, cache=cache)


def test_a_build_tree(tmp_path: Path, cache: Path) -> None:
    tree = tmp_path / "linux"
    image = tree / "arch/x86/boot/bzImage"
    image.parent.mkdir(parents=True)
    (tree / "Kbuild").write_text("")
    (tree / ".config").write_text("CONFIG_VIRTIO_NET=y\n")
    with pytest.raises(KernelError, match="holds no kernel"):
        boot.resolve_kernel(tree, cache=cache)
    image.write_bytes(parts.make_bzimage(parts.make_vmlinux()))
    (tree / "vmlinux").write_bytes(parts.make_vmlinux(debug=True))
    modules = {name: needs for name, needs in parts.NINE_P.items() if name != "virtio_net"}
    parts.fill_modules(tree / "drivers", modules)
    for files in (
        boot.resolve_kernel(tree, cache=cache),
        boot.resolve_kernel(image, cache=cache),
    ):
        assert files.pvh
        assert files.vmlinux == tree / "vmlinux"
        assert files.image_root is None
        assert "9p" in names(files)
        assert "virtio_net" in files.modules.builtin


def test_an_unreadable_kernel_is_refused_by_the_system(root: Path, cache: Path) -> None:
    image = root / f"boot/vmlinuz-{RELEASE}"
    image.chmod(0)
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)  # root reads everything
    try:
        with pytest.raises(KernelError, match="cannot be read"):
            boot.resolve_kernel(image, cache=cache)
    finally:
        os.seteuid(own)


def test_an_unreadable_kernel_comes_with_a_way_out(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(KernelError, match="cannot be read") as caught:
        boot.resolve_kernel(root / f"boot/vmlinuz-{RELEASE}", cache=cache)
    assert "chmod" in caught.value.hint


def test_the_running_kernel_comes_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for release in ("6.7.10-made", "6.7.2-made"):
        (root / f"boot/vmlinuz-{release}").write_bytes(b"")
    found = [path.name for path in boot.host_kernels(root)]
    assert found == ["vmlinuz-6.7.10-made", f"vmlinuz-{RELEASE}", "vmlinuz-6.7.2-made"]
    uname = platform.uname()._replace(release="6.7.2-made")
    monkeypatch.setattr(platform, "uname", lambda: uname)
    assert next(boot.host_kernels(root)).name == "vmlinuz-6.7.2-made"


def test_no_kernel_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "host_kernels", lambda: iter(()))
    assert boot.find_host_kernel() is None
    assert "no kernel installed" in boot.no_host_kernel().message


def test_a_kernel_of_the_host_that_only_root_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "host_kernels", lambda: iter([tmp_path / "vmlinuz"]))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert boot.find_host_kernel() is None
    assert str(tmp_path / "vmlinuz") in boot.no_host_kernel().message


def test_the_guest_finds_the_configuration_whatever_the_layout(root: Path, cache: Path) -> None:
    def layer(place: Path = root) -> dict[str, bytes]:
        return dict(boot.resolve_kernel(place, cache=cache).layer)

    config = f"boot/config-{RELEASE}"
    assert config not in layer()
    for name in ("boot/config", f"lib/modules/{RELEASE}/config"):
        (root / config).rename(root / name)
        assert layer()[config] == b"CONFIG_9P_FS=m\n# CONFIG_X is not set\n"
        (root / name).rename(root / config)
    (root / config).unlink()
    assert config not in layer()
    image = parts.make_vmlinux(config="CONFIG_9P_FS=m\n")
    (root / f"boot/vmlinuz-{RELEASE}").write_bytes(parts.make_bzimage(image))
    assert layer()[config] == b"CONFIG_9P_FS=m\n"


def test_what_is_no_kernel_is_not_read_to_its_end(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * 100_000)
    monkeypatch.setattr(boot, "Table", None)
    with pytest.raises(KernelError):
        boot.resolve_kernel(path, cache=cache)


def test_the_index_lies_where_the_guest_has_the_modules(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def layer(place: Path) -> dict[str, bytes | str]:
        return dict(boot.resolve_kernel(place, cache=cache).layer)

    place = f"lib/modules/{RELEASE}"
    needs = b"kernel/9p.ko: kernel/9pnet.ko\n"
    found = layer(root)[f"{place}/modules.dep"]
    assert isinstance(found, bytes) and needs in found
    # A bare directory, which is not laid over the guest's root.
    modules = root / place
    (root / f"boot/vmlinuz-{RELEASE}").rename(modules / "vmlinuz")
    (root / f"boot/config-{RELEASE}").rename(modules / "config")
    bare = layer(modules)
    home = os.path.realpath("/lib/modules")[1:]
    found = bare[f"{home}/{RELEASE}/modules.dep"]
    assert isinstance(found, bytes) and found.startswith(os.fsencode(f"{modules}/kernel/"))
    assert bare[f"boot/config-{RELEASE}"] == b"CONFIG_9P_FS=m\n# CONFIG_X is not set\n"
    # A host whose /lib is not /usr/lib looks for them in /lib all the same.
    (modules / "vmlinuz").rename(root / f"boot/vmlinuz-{RELEASE}")
    (root / "usr").mkdir()
    (root / "lib").rename(root / "usr/lib")
    assert place not in layer(root) or not os.path.islink("/lib")
    monkeypatch.setattr(os.path, "islink", lambda _path: False)
    assert layer(root)[place] == f"/usr/{place}"
