"""The distribution's own kernels, where `hack/kernels` has put them into vimto's cache."""

import os
from pathlib import Path

import pytest

from tests.conftest import builtin_kernel
from vimto import elf
from vimto.config import load_config
from vimto.kernel import boot, bzimage, modules, packages
from vimto.kernel.reference import AptKernel
from vimto.plan.agent import Agent
from vimto.plan.initramfs import build_initramfs

KERNELS = {
    "oldest": AptKernel(package="linux-image-amd64", release="bullseye-security"),
    "own": AptKernel(package="linux-image-amd64"),
    "newer": AptKernel(package="linux-image-6.12-amd64", release="bookworm-security"),
    "newest": AptKernel(package="linux-image-amd64", release="sid"),
    "cloud": AptKernel(package="linux-image-cloud-amd64"),
}


@pytest.fixture(params=KERNELS)
def package(request: pytest.FixtureRequest) -> tuple[str, Path]:
    cache = load_config({}, os.environ, os.sep).cache_dir
    found = packages.find_package(KERNELS[request.param], cache=cache, fresh=float("inf"))
    if found is None:
        pytest.skip("`hack/kernels` has not been run")
    return request.param, found.directory


def test_a_package_becomes_something_to_boot(package: tuple[str, Path], tmp_path: Path) -> None:
    name, directory = package
    files = boot.resolve_kernel(directory, cache=tmp_path)
    assert files.pvh
    assert files.transport == ("virtiofs" if name == "cloud" else "9p")
    assert files.modules.missing == ()
    assert files.config["CONFIG_PVH"] == "y"
    assert files.release in str(files.modules.modules[0].path)
    assert bzimage.read_release(files.kernel) == files.release
    for module in files.modules.modules:
        assert elf.is_elf(modules.read_module(module.path))

    agent = tmp_path / "agent"
    agent.write_bytes(b"agent")
    archive = build_initramfs(
        Agent(path=agent, digest="x"), files.modules, files.layer, cache=tmp_path / "cache"
    )
    assert archive.stat().st_size > 1 << 20


def test_a_kernel_with_all_built_in(tmp_path: Path) -> None:
    kernel = builtin_kernel()
    files = boot.resolve_kernel(kernel / "boot/vmlinuz", cache=tmp_path)
    assert files.pvh
    assert files.transport == "9p"
    assert files.modules.modules == ()
    assert files.modules.missing == ()
    assert files.image_root is None
    assert files.config["CONFIG_9P_FS"] == "y"
