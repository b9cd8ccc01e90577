"""Whatever lies where a file is expected: a message, and at once."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vimto.config import load_config
from vimto.errors import VimtoError
from vimto.files import open_file, read_file
from vimto.gdb import symbols
from vimto.gdb.symbols import check_vmlinux
from vimto.kernel import boot, depmod, modules
from vimto.kernel.reference import parse_image, parse_kernel
from vimto.oci import credentials, layout


def place_fifo(path: Path) -> str:
    os.mkfifo(path)
    return "it is a FIFO, not a regular file"


def place_socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(os.path.relpath(path))  # a socket's path has 107 bytes at most
    return "it is a socket, not a regular file"


def place_device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "it is a device, not a regular file"


def place_sparse(path: Path) -> str:
    path.write_bytes(b"\x7fELF\x02\x01\x01")
    os.truncate(path, 100 << 30)
    return "it is larger than"


def place_loop(path: Path) -> str:
    path.symlink_to(path.name)
    return "Too many levels of symbolic links"


def place_directory(path: Path) -> str:
    path.mkdir()
    return "it is a directory"


PLACES = [place_fifo, place_socket, place_device, place_sparse, place_loop]


@pytest.mark.parametrize("place", [*PLACES, place_directory])
def test_only_regular_files_are_opened(place: Callable[[Path], str], tmp_path: Path) -> None:
    expected = place(tmp_path / "odd")
    for opened in (open_file, read_file):
        with pytest.raises(OSError) as caught:
            opened(tmp_path / "odd", 1 << 30)
        assert expected in str(caught.value.strerror)
    assert caught.value.filename == str(tmp_path / "odd")


def test_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2048))
    assert len(read_file(path, 2048)) == 2048
    with pytest.raises(OSError, match="it is larger than 1 KiB"):
        read_file(path, 1024)
    assert read_file("/proc/self/cmdline", 1 << 20)  # has no size


def as_kernel(path: Path) -> object:
    reference = parse_kernel(str(path), directories=[path.parent])
    return boot.resolve_kernel(Path(str(path)), cache=path.parent / "cache") if reference else None


def as_module(path: Path) -> object:
    return modules.read_module(path)


def as_list_of_modules(path: Path) -> object:
    return depmod.read_index(path.parent, cache=path.parent / "cache")


def as_config(path: Path) -> object:
    return load_config({}, {"HOME": str(path.parent)}, str(path.parent))


def as_vmlinux(path: Path) -> object:
    return check_vmlinux(path)


def as_archive(path: Path) -> object:
    reference = parse_image(f"oci-archive:{path}")
    return layout.open_layout(reference, path.parent, 1 << 30)  # type: ignore[arg-type]


def as_credentials(path: Path) -> object:
    reference = parse_image("reg.example/x:1")
    environ = {"DOCKER_CONFIG": str(path.parent), "HOME": str(path.parent)}
    return credentials.find_credentials(reference, environ)  # type: ignore[arg-type]


USES = [
    ("vmlinuz", as_kernel),
    ("9p.ko", as_module),
    ("modules.builtin", as_list_of_modules),
    (".vimto.toml", as_config),
    ("vmlinux", as_vmlinux),
    ("image.tar", as_archive),
    ("config.json", as_credentials),
]


@pytest.mark.parametrize(("name", "use"), USES)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_named_is_refused_with_a_reason(
    place: Callable[[Path], str], name: str, use: Callable[[Path], object], tmp_path: Path
) -> None:
    expected = place(tmp_path / name)
    if (place, use) == (place_sparse, as_archive):
        expected = "a header with a wrong checksum"  # an archive may be large; it ends at once here
    with pytest.raises(VimtoError) as caught:
        use(tmp_path / name)
    assert expected in caught.value.message


def test_a_build_id_is_read_of_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "odd")
    with pytest.raises(OSError, match="FIFO"):
        symbols.read_build_id(tmp_path / "odd")
