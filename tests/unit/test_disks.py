"""Disks: how they are asked for, what an image is taken for, and who may have it at once."""

import fcntl
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from vimto.config import load_config
from vimto.diskimage import Image, read_image
from vimto.disks import Disk, parse_disk, parse_disks, place_disk
from vimto.errors import ConfigError, VimtoError
from vimto.plan.drives import find_drives
from vimto.qemu.backends import NO_DRIVE, Drive, card_flag, no_network
from vimto.qemu.options import Option
from vimto.qemu.render import arguments, config_file
from vimto.settings import parse_flags
from vimto.vm import images
from vimto.vm.images import hold_images


def qcow2(path: Path, *, version: int = 3, backing: int = 0, features: int = 0) -> Path:
    head = struct.pack(">4sIQI", b"QFI\xfb", version, backing, 5 if backing else 0)
    path.write_bytes(head.ljust(72, b"\0") + struct.pack(">Q", features) + bytes(512))
    return path


@pytest.mark.parametrize(
    ("text", "disk"),
    [
        ("64M", Disk(size=64 << 20)),
        ("1g", Disk(size=1 << 30)),
        ("4KiB", Disk(size=4096)),
        ("a.img", Disk(path="a.img")),
        ("/a:b.img:ro", Disk(path="/a:b.img", mode="ro")),
        ("x:rw", Disk(path="x", mode="rw")),
        ("x:ro:rw", Disk(path="x:ro", mode="rw")),
        ("./1G", Disk(path="./1G")),
        ("1Gb.img", Disk(path="1Gb.img")),
    ],
)
def test_a_size_or_a_file(text: str, disk: Disk) -> None:
    assert parse_disk(text) == disk


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("100", "has no unit; write `100M`"),
        ("1G:ro", "without `:ro`"),
        ("0M", "is not the size of a disk"),
        (":ro", "names neither a size nor a file"),
    ],
)
def test_what_is_neither(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_disk(text)
    with pytest.raises(ValueError, match=said):
        parse_disks([text])


def test_a_file_is_found_from_where_it_was_named() -> None:
    assert parse_disks("") == ("",)
    assert place_disk("a.img:ro", "/w") == "/w/a.img:ro"
    assert place_disk("../x", "/w/d") == "/w/x"
    assert place_disk("1G", "/w") == "1G" and place_disk("", "/w") == ""


def test_what_an_image_is(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(512))
    assert read_image(str(raw)) == Image("raw")
    assert read_image(str(qcow2(tmp_path / "q"))) == Image("qcow2")
    assert read_image(str(qcow2(tmp_path / "old", version=2))) == Image("qcow2")
    assert "backing file" in read_image(str(qcow2(tmp_path / "b", backing=512))).refers
    assert "another file" in read_image(str(qcow2(tmp_path / "d", features=4))).refers


def drives(directory: Path, *disks: str) -> list[Drive]:
    flags, _ = parse_flags([word for disk in disks for word in ("-disk", disk)])
    return find_drives(load_config(flags, {}, directory))


def test_what_is_behind_the_disks(tmp_path: Path) -> None:
    raw = tmp_path / "a,b.img"
    raw.write_bytes(bytes(512))
    image = qcow2(tmp_path / "q", backing=512)
    found = drives(tmp_path, "1M", "a,b.img", "q:ro", "a,b.img:ro")
    assert found == [
        Drive(size=1 << 20),
        Drive(path=str(raw), format="raw"),
        Drive(path=str(image), format="qcow2", mode="ro", alone=False),
        Drive(path=str(raw), format="raw", mode="ro"),
    ]
    words = [arguments([drive.option("d")])[1] for drive in found]
    assert words[:2] == [
        "id=d,if=none,driver=null-co,size=1048576,read-zeroes=on,discard=unmap,snapshot=on",
        f"id=d,if=none,driver=raw,file.driver=file,file.filename={tmp_path}/a,,b.img,"
        "discard=unmap,snapshot=on",
    ]
    assert words[2].endswith("/q,readonly=on") and "snapshot" not in words[2]
    written = drives(tmp_path, "a,b.img:rw")
    assert arguments([written[0].option("d")])[1].endswith("discard=unmap,snapshot=off")
    assert b'[drive "d"]\n  if = "none"\n' in config_file([found[0].option("d")])


def test_while_it_is_saved_a_machine_has_nothing_of_the_host() -> None:
    assert arguments([NO_DRIVE.option("d"), card_flag(no_network(1), "nic1")]) == [
        "-drive",
        "id=d,if=none,driver=null-co,size=1048576,read-zeroes=on,readonly=on",
        "-netdev",
        "hubport,hubid=1,id=nic1",
    ]
    assert config_file([Option("drive", "", {"if": "none"}, id="d")])


@pytest.mark.parametrize(
    ("disks", "said"),
    [
        (["none.img"], "`{}/none.img` cannot be a disk: no such file"),
        (["."], "`{}` cannot be a disk: it is not a regular file"),
        (["/dev/null"], "`/dev/null` cannot be a disk: it is not a regular file"),
        (["a.img:rw", "a.img"], "second disk of the same machine"),
        (["1M"] * 33, "32 disks at most"),
    ],
)
def test_what_cannot_be_a_disk(tmp_path: Path, disks: list[str], said: str) -> None:
    (tmp_path / "a.img").write_bytes(bytes(512))
    with pytest.raises(ConfigError) as caught:
        drives(tmp_path, *disks)
    assert said.format(tmp_path) in caught.value.message


# -- who has an image


def drive(path: Path, mode: str = "scratch", **more: Any) -> Drive:
    return Drive(path=str(path), format="raw", mode=mode, **more)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(512))
    return path


@pytest.mark.parametrize("other", ["scratch", "ro", "rw"])
def test_what_is_written_to_is_one_machine_s(image: Path, other: str) -> None:
    first = hold_images([drive(image, "rw"), Drive(size=512)])
    with pytest.raises(VimtoError, match="another machine") as caught:
        hold_images([drive(image, other)])
    assert caught.value.hint
    first.close()
    second = hold_images([drive(image, other)])
    second.close()


def test_who_only_reads_needs_nobody_s_leave(image: Path) -> None:
    first, second = hold_images([drive(image)]), hold_images([drive(image, "ro")])
    with pytest.raises(VimtoError, match="cannot be written to: another machine uses it"):
        hold_images([drive(image, "rw")])
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("byte", "mode", "busy"),
    [(101, "ro", True), (101, "rw", True), (201, "ro", False), (201, "rw", True)],
)
def test_another_qemu_s_locks_are_heeded(image: Path, byte: int, mode: str, busy: bool) -> None:
    fd = os.open(image, os.O_RDWR)
    lock = images._FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
    if busy:
        with pytest.raises(VimtoError, match="another machine"):
            hold_images([drive(image, mode)])
    else:
        hold_images([drive(image, mode)]).close()
    os.close(fd)


def test_an_image_is_looked_at_again(image: Path) -> None:
    """A test that may write to an image must not choose what the next machine sees of the host."""
    qcow2(image)
    with pytest.raises(VimtoError, match="was a raw image"):
        hold_images([drive(image)])
    chosen = drive(image)._replace(format="qcow2")
    hold_images([chosen]).close()
    qcow2(image, features=4)
    with pytest.raises(VimtoError, match="stood alone"):
        hold_images([chosen])
    hold_images([chosen._replace(alone=False)]).close()
    image.rename(f"{image}2")
    with pytest.raises(VimtoError, match="cannot be a disk"):
        hold_images([chosen])
    image.symlink_to("/etc/hostname")
    with pytest.raises(VimtoError, match="cannot be a disk"):
        hold_images([chosen])


def test_qemu_is_given_the_very_file_that_was_looked_at(image: Path) -> None:
    held = hold_images([Drive(size=512), drive(image), drive(image, alone=False)])
    assert [fd < 0 for fd in held.fds] == [True, False, True]
    assert os.path.samestat(os.fstat(held.fds[1]), os.stat(image))
    words = arguments([drive(image).option("d", held.fds[1])])[1]
    assert f"file.filename=/dev/fd/{held.fds[1]}" in words
    held.close()
    held.close()


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    with pytest.raises(OSError, match="not a regular file"):
        read_image(str(tmp_path / "f"))
