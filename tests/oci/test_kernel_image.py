"""hack/kernel-image, and `vimto kernel` on what it made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need
from tests.oci.servers import TokenServer, docker_registry
from tests.oci.test_pull import basic, login
from tests.unit.kernel_parts import NINE_P, fill_modules, make_bzimage, make_deb, make_vmlinux
from tests.unit.oci_parts import ImageConfig, fetch_image, find_image, tree
from vimto.oci import store as images

ROOT = Path(__file__).parents[2]
RELEASE = "6.7.8-made"
ARGUMENT = f"boot/vmlinuz-{RELEASE}"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A kernel package, unpacked, with its debug package."""
    root = tmp_path / "package"
    (root / "boot").mkdir(parents=True)
    (root / ARGUMENT).write_bytes(make_bzimage(make_vmlinux()))
    (root / f"boot/config-{RELEASE}").write_text("CONFIG_PVH=y\n")
    modules = root / f"lib/modules/{RELEASE}"
    fill_modules(modules, NINE_P)
    (modules / "modules.order").touch()
    (modules / "modules.builtin").touch()
    (modules / "build").symlink_to("/usr/src/not-there")
    debug = root / f"usr/lib/debug/boot/vmlinux-{RELEASE}"
    debug.parent.mkdir(parents=True)
    debug.write_bytes(make_vmlinux(debug=True))
    return root


def make(*words: str | Path, **environ: str) -> str:
    """Run hack/kernel-image and return what it printed."""
    done = subprocess.run(
        [sys.executable, ROOT / "hack/kernel-image", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def kernel(settings: ImageConfig, *words: str, status: int = 0) -> str:
    """Run `vimto kernel` and return what it printed, stdout before stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "vimto", "kernel", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "VIMTO_CACHE_DIR": str(settings.cache_dir)},
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_image(unpacked: Path, tmp_path: Path, settings: ImageConfig) -> None:
    layout = tmp_path / "layout"
    make("-o", f"{layout}:one", unpacked, PATH=str(tmp_path))  # no depmod is needed
    image = fetch_image(f"oci:{layout}:one", settings)
    names = set(tree(image.root))
    assert {"boot/vmlinuz", "boot/vmlinux", f"boot/config-{RELEASE}"} <= names
    assert f"usr/lib/modules/{RELEASE}/modules.dep" in names
    assert f"usr/lib/modules/{RELEASE}/kernel/9p.ko" in names
    assert not any(name.endswith("/build") or "debug" in name for name in names)
    assert os.readlink(image.root / "lib") == "usr/lib"
    dep = (image.root / f"usr/lib/modules/{RELEASE}/modules.dep").read_text()
    assert "kernel/9p.ko: kernel/9pnet.ko" in dep


@pytest.mark.parametrize("compress", ["gzip", "zstd", "none"])
def test_same_inputs_same_bytes(compress: str, unpacked: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(unpacked, again, symlinks=True)
    for path in again.rglob("*"):
        os.utime(path, (5, 5), follow_symlinks=False)
    first = make("-o", tmp_path / "1:x", "--compress", compress, unpacked).split()[-1]
    assert make("-o", tmp_path / "2:x", "--compress", compress, again).split()[-1] == first
    environ = {"SOURCE_DATE_EPOCH": "7"}
    assert make("-o", tmp_path / "3:x", unpacked, **environ).split()[-1] != first


def test_packages(unpacked: Path, tmp_path: Path) -> None:
    parts: dict[str, list[tuple[str, bytes]]] = {"kernel": [], "debug": []}
    for path in sorted(unpacked.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(unpacked))
            parts["debug" if "debug" in name else "kernel"].append((f"./{name}", path.read_bytes()))
    packages = []
    for name, members in parts.items():
        packages.append(tmp_path / f"{name}.deb")
        packages[-1].write_bytes(make_deb(list(members)))
    from_tree = make("-o", tmp_path / "1:x", unpacked).split()[-1]
    assert make("-o", tmp_path / "2:x", *packages).split()[-1] == from_tree


def test_layout_keeps_other_images(unpacked: Path, tmp_path: Path, settings: ImageConfig) -> None:
    layout = tmp_path / "layout"
    make("-o", f"{layout}:one", unpacked)
    make("-o", f"{layout}:two", "--compress", "zstd", unpacked)
    one = fetch_image(f"oci:{layout}:one", settings)
    two = fetch_image(f"oci:{layout}:two", settings)
    assert one.digest != two.digest
    assert sorted(tree(one.root)) == sorted(tree(two.root))


@pytest.mark.parametrize("empty", [True, False])
def test_not_one_kernel(empty: bool, unpacked: Path, tmp_path: Path) -> None:
    if empty:
        shutil.rmtree(unpacked)
        unpacked.mkdir()
    else:
        (unpacked / "boot/vmlinuz-another").write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, ROOT / "hack/kernel-image", "-o", tmp_path / "l", unpacked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "must hold one kernel" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "l").exists()


def test_pushed(registry: str, unpacked: Path, tmp_path: Path, settings: ImageConfig) -> None:
    name = f"{registry}/made/kernel:{RELEASE}"
    made = make("-o", tmp_path / "l", "--push", name, unpacked).splitlines()
    assert [line.split()[-1] for line in made] == [made[0].split()[-1]] * 2
    make("-o", tmp_path / "l", "--push", name, unpacked)  # what is there is not sent again
    info = kernel(settings, "info", name)
    assert f"version   {RELEASE}" in info
    assert f"digest    {made[0].split()[-1]}" in info
    assert "modules   virtio" in info
    assert "missing   nothing" in info
    assert "debug     " in info and "boot/vmlinux" in info
    listed = kernel(settings, "ls")
    assert name in listed
    assert f"removed {name}" in kernel(settings, "rm", made[0].split()[-1][:20])
    assert name not in kernel(settings, "ls")


def test_pushed_with_a_token(
    tokens: TokenServer,
    unpacked: Path,
    tmp_path: Path,
    settings: ImageConfig,
    no_credentials: Path,
) -> None:
    need("docker-registry")
    directory = tmp_path / "registry"
    directory.mkdir()
    tokens.anonymous, tokens.users = False, ("me:secret",)
    with docker_registry(directory, tokens.auth) as host:
        login(no_credentials, host, auth=basic("me:secret"))
        make("-o", tmp_path / "l", "--push", f"{host}/x:1", unpacked)
        assert fetch_image(f"{host}/x:1", settings).root.is_dir()


def test_commands(registry: str, unpacked: Path, tmp_path: Path, settings: ImageConfig) -> None:
    first, second = f"{registry}/made/kernel:1", f"{registry}/made/kernel:2"
    make("-o", tmp_path / "l", "--push", first, unpacked)
    make("-o", tmp_path / "l", "--push", second, "--compress", "none", unpacked)
    assert first in kernel(settings, "pull", first, second)
    assert "0 B freed" in kernel(settings, "prune")
    image = find_image(first, settings)
    assert image is not None
    with images.hold(image):
        assert "is in use" in kernel(settings, "rm", first, status=125)
        pruned = kernel(settings, "prune", "-all")
        assert "is in use" in pruned and f"removed {second}" in pruned
    os.utime(image.root.parent / "image.json", (1, 1))
    assert f"removed {first}" in kernel(settings, "prune")
    assert "not on this machine" in kernel(settings, "rm", first, status=125)
    assert "usage:" in kernel(settings, status=125)
    assert "has no command `bla`" in kernel(settings, "bla", status=125)
    assert "is a kernel, but not an image" in kernel(settings, "pull", "host", status=125)
    assert "none is configured" in kernel(settings, "pull", status=125)
